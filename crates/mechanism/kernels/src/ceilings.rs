//! What the processor can do at most: the roofline that kernels are held against.
//!
//! Rates are the best of many short calls, because everything that disturbs a call makes it slower.
//! They belong to the processor, not to the rung of [`crate::Isa`] that the kernels use: each loop
//! takes the widest instructions there are. Multiply-adds count as two operations.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use crate::{Cpu, ZeroedMemory};

/// Bytes that all threads together read per call; short calls find a moment without disturbance.
const CALL_BYTES: usize = 64 << 20;
/// Multiply-add rounds of a call: some hundred microseconds.
const ROUNDS: usize = 1 << 16;
/// Regions of a call that measures their cost.
const REGIONS: u32 = 1000;

/// How thoroughly [`Ceilings::measure`] looks.
#[derive(Debug, Clone, Copy)]
pub struct CeilingOptions {
    /// Bytes of the buffer that is read over and over, at least 1 MiB; larger than every cache, or
    /// the caches are measured.
    pub buffer_bytes: usize,
    /// How long each of the loops is repeated.
    pub each: Duration,
}

impl Default for CeilingOptions {
    /// 1 GiB, half a second each.
    fn default() -> Self {
        Self { buffer_bytes: 1 << 30, each: Duration::from_millis(500) }
    }
}

/// A rate of multiply-adds and the instructions that reach it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Operations per second of all threads together, two for each multiply-add.
    pub ops_per_s: f64,
    /// The extension of the instruction set, such as `avx512_vnni`.
    pub instructions: &'static str,
}

/// What this processor can do at most, with a given number of threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Threads that computed.
    pub threads: usize,
    /// Bytes per second that one thread reads from memory.
    pub read_one_thread_bytes_per_s: f64,
    /// Bytes per second that all threads together read from memory.
    pub read_bytes_per_s: f64,
    /// f32 multiply-adds from registers.
    pub f32: Peak,
    /// bf16 multiply-adds with f32 sums; none where the processor has no such instruction.
    pub bf16: Option<Peak>,
    /// int8 multiply-adds with int32 sums; none where the processor has no such instruction.
    pub int8: Option<Peak>,
    /// Seconds that a parallel region without work takes: the cost of two barriers.
    pub barrier_s: f64,
}

impl Ceilings {
    /// Measures with all threads of `cpu`; takes about eight times [`CeilingOptions::each`].
    ///
    /// # Errors
    /// The buffer cannot be had.
    pub fn measure(cpu: &Cpu, options: &CeilingOptions) -> io::Result<Ceilings> {
        let each = options.each;
        let mut memory = ZeroedMemory::new(options.buffer_bytes.max(1 << 20))?;
        // Untouched pages are all the same page of zeros.
        memory.as_mut().fill(1);
        let bytes = memory.bytes();
        Ok(Ceilings {
            threads: cpu.threads(),
            read_one_thread_bytes_per_s: read(cpu, 1, bytes, each),
            read_bytes_per_s: read(cpu, cpu.threads(), bytes, each),
            f32: peak(cpu, f32_loop(), each),
            bf16: bf16_loop().map(|of| peak(cpu, of, each)),
            int8: int8_loop().map(|of| peak(cpu, of, each)),
            barrier_s: barrier(cpu, each),
        })
    }
}

/// Multiply-adds that never leave the registers.
#[derive(Clone, Copy)]
struct Loop {
    instructions: &'static str,
    /// Operations of a round.
    ops: usize,
    /// Does so many rounds. Only made where the processor has the instructions.
    run: fn(usize),
}

fn peak(cpu: &Cpu, of: Loop, each: Duration) -> Peak {
    let seconds = best(each, |_| cpu.on_every_thread(&|_| (of.run)(ROUNDS)));
    let ops_per_s = (ROUNDS * of.ops * cpu.threads()) as f64 / seconds;
    Peak { ops_per_s, instructions: of.instructions }
}

#[cfg(target_arch = "x86_64")]
fn f32_loop() -> Loop {
    x86::f32_loop().unwrap_or(PLAIN)
}

#[cfg(target_arch = "x86_64")]
use x86::{bf16_loop, int8_loop, sum};

#[cfg(not(target_arch = "x86_64"))]
fn f32_loop() -> Loop {
    PLAIN
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_loop() -> Option<Loop> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_loop() -> Option<Loop> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn sum(bytes: &[u8], streams: usize) -> u64 {
    sum_words(bytes, streams)
}

/// What the compiler makes of plain multiplications and additions.
const PLAIN: Loop = Loop { instructions: "build target", ops: 2 * PLAIN_CHAINS, run: plain };
const PLAIN_CHAINS: usize = 32;

fn plain(rounds: usize) {
    let factor = black_box(0.5f32);
    let mut sums = [0.0f32; PLAIN_CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    black_box(sums);
}

/// Best seconds per call of `f` over about `each`.
fn best(each: Duration, mut f: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    let mut least = f64::INFINITY;
    let mut round = 0;
    while round < 3 || start.elapsed() < each {
        let begin = Instant::now();
        f(round);
        least = least.min(begin.elapsed().as_secs_f64());
        round += 1;
    }
    least.max(1e-9)
}

/// Seconds of a region without work.
fn barrier(cpu: &Cpu, each: Duration) -> f64 {
    let seconds = best(each, |_| {
        for _ in 0..REGIONS {
            cpu.on_every_thread(&|thread| {
                black_box(thread);
            });
        }
    });
    seconds / f64::from(REGIONS)
}

/// Bytes per second that the first `threads` threads read: the better of one stream each and of
/// eight.
fn read(cpu: &Cpu, threads: usize, bytes: &[u8], each: Duration) -> f64 {
    let call = CALL_BYTES.min(bytes.len());
    let part = call / threads / 4096 * 4096;
    let rate = |streams| {
        let seconds = best(each / 2, |round| {
            // Walk through the buffer, so that every call finds its part outside the caches.
            let here = &bytes[round % (bytes.len() / call) * call..][..call];
            cpu.on_every_thread(&|thread| {
                if thread < threads {
                    black_box(sum(&here[thread * part..][..part], streams));
                }
            });
        });
        (part * threads) as f64 / seconds
    };
    rate(1).max(rate(8))
}

/// Reads all bytes as `streams` equal parts side by side; the sum keeps the loads alive. Sixty-four
/// independent additions per round become vectors of the caller's kind.
#[inline(always)]
fn sum_words(bytes: &[u8], streams: usize) -> u64 {
    const BLOCK: usize = 512;
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let each = blocks.len() / streams;
    let mut sums = [0u64; BLOCK / 8];
    for i in 0..each {
        for stream in 0..streams {
            let (words, _) = blocks[stream * each + i].as_chunks::<8>();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    #[test]
    fn every_ceiling_is_a_rate() {
        let cpu = Cpu::new(CpuOptions { threads: Some(2), isa: None }).unwrap();
        let options = CeilingOptions { buffer_bytes: 4 << 20, each: Duration::from_millis(1) };
        let ceilings = Ceilings::measure(&cpu, &options).unwrap();
        assert_eq!(ceilings.threads, 2);
        let peaks = [Some(ceilings.f32), ceilings.bf16, ceilings.int8];
        let peaks = peaks.into_iter().flatten();
        let rates = peaks.map(|peak| peak.ops_per_s).chain([
            ceilings.read_one_thread_bytes_per_s,
            ceilings.read_bytes_per_s,
            1.0 / ceilings.barrier_s,
        ]);
        for rate in rates {
            assert!(rate.is_finite() && rate > 0.0, "{ceilings:?}");
        }
    }

    #[test]
    fn a_sum_reads_every_block_once() {
        let bytes: Vec<u8> = (0..8 * 512).map(|i| (i / 8 % 7) as u8).collect();
        let words = bytes.as_chunks::<8>().0.iter();
        let expected = words.fold(0u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
        for streams in [1, 2, 8] {
            assert_eq!(sum(&bytes, streams), expected, "{streams}");
            assert_eq!(sum_words(&bytes, streams), expected, "{streams}");
        }
    }
}
