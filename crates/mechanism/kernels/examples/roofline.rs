//! Prints what this machine can do (memory reads, multiply-adds) and how close the kernels come.
//!
//! `cargo run --release -p tyndall-kernels --example roofline [threads] [isa]`
#![expect(clippy::print_stdout, reason = "the output of a command")]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use tyndall_kernels::{
    Activation, AttentionArgs, Cpu, CpuOptions, DType, Isa, KvLayer, LinearJob, Matrix, Write,
    ZeroedMemory,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map(|a| a.parse()).transpose()?;
    let isa: Option<Isa> = args.next().map(|a| a.parse()).transpose()?;
    let cpu = Cpu::new(CpuOptions { threads, isa })?;
    println!("{} threads, {}", cpu.threads(), cpu.isa());
    // Larger than any cache that this process could have to itself; filling it touches it.
    let mut memory = ZeroedMemory::new(1280 << 20)?;
    fill(memory.as_mut());
    let weights = memory.bytes();
    println!("barrier               {:8.0} ns", barrier(&cpu)? * 1e9);
    let ceilings = (read(&cpu, weights), peak(&cpu));
    println!("memory read           {:8.1} GB/s", ceilings.0 / 1e9);
    println!("bf16 multiply-adds    {:8.0} GFLOP/s", ceilings.1 / 1e9);
    for (n, k) in [(896, 4864), (4864, 896), (151_936, 896), (8192, 2048)] {
        for t in [1, 2, 4, 8, 16, 64, 256, 512] {
            if t * n <= 16 << 20 {
                report(&cpu, weights, ceilings, (t, n, k))?;
            }
        }
    }
    for (context, queries) in [(512, 1), (4096, 1), (32_768, 1), (512, 512), (2048, 512)] {
        attention(&cpu, context, queries)?;
    }
    Ok(())
}

/// Small normal bf16 numbers everywhere.
fn fill(bytes: &mut [u8]) {
    let mut state = 1u32;
    for pair in bytes.chunks_exact_mut(2) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        pair.copy_from_slice(&(0x3c00 | (state >> 16 & 0x80ff) as u16).to_le_bytes());
    }
}

/// Best seconds per call of `f` over about half a second.
fn best(mut f: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    let mut least = f64::INFINITY;
    let mut round = 0;
    while round < 3 || start.elapsed().as_secs_f64() < 0.5 {
        let begin = Instant::now();
        f(round);
        least = least.min(begin.elapsed().as_secs_f64());
        round += 1;
    }
    least
}

/// Seconds of a region with next to no work on two threads.
fn barrier(cpu: &Cpu) -> Result<f64, Box<dyn Error>> {
    let (x, weight) = ([0.5f32; 8], [0u8; 128 * 16]);
    let mut out = [0.0; 128];
    let weight = Matrix::new(DType::BF16, &weight, 128, 8)?;
    let calls = 1000;
    let mut failed = None;
    let seconds = best(|_| {
        for _ in 0..calls {
            let job =
                LinearJob { weight: weight.into(), bias: None, out: &mut out, mode: Write::Store };
            failed = cpu.linear(&x, 1, &mut [job]).err().or(failed.take());
        }
    });
    failed.map_or(Ok(seconds / f64::from(calls)), |e| Err(e.into()))
}

/// Bytes per second of reads by all threads: the better of one stream per thread and of eight.
fn read(cpu: &Cpu, bytes: &[u8]) -> f64 {
    // Walk through the buffer, as `report` does; short calls find a moment without disturbance.
    const CALL: usize = 64 << 20;
    let part = CALL / cpu.threads() / 4096 * 4096;
    let rate = |streams| {
        let seconds = best(|round| {
            let here = &bytes[round % (bytes.len() / CALL) * CALL..][..CALL];
            cpu.on_every_thread(&|thread| {
                black_box(sum(cpu.isa(), &here[thread * part..][..part], streams));
            });
        });
        (part * cpu.threads()) as f64 / seconds
    };
    rate(1).max(rate(8))
}

/// Reads all bytes as `streams` equal parts side by side; the sum keeps the loads alive.
fn sum(isa: Isa, bytes: &[u8], streams: usize) -> u64 {
    match isa {
        // SAFETY: the chosen instruction set has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::AmxBf16 | Isa::Avx512Bf16 | Isa::Avx512 => unsafe { sum_avx512(bytes, streams) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { sum_avx2(bytes, streams) },
        _ => sum_words(bytes, streams),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(bytes: &[u8], streams: usize) -> u64 {
    sum_words(bytes, streams)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8], streams: usize) -> u64 {
    sum_words(bytes, streams)
}

/// Sixty-four independent additions per round, which become vectors of the caller's kind.
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

/// Bf16 multiply-adds per second (counted as two operations) of all threads, from registers; zero
/// where the processor has no such instruction.
fn peak(cpu: &Cpu) -> f64 {
    const ROUNDS: usize = 1 << 16;
    let products = match cpu.isa() {
        Isa::AmxBf16 => 4 * 16 * 16 * 64,
        Isa::Avx512Bf16 => 16 * 64,
        Isa::Avx512 | Isa::Avx2 | Isa::Portable => return 0.0,
    };
    let seconds = best(|_| {
        cpu.on_every_thread(&|_| {
            #[cfg(target_arch = "x86_64")]
            if cpu.isa() == Isa::AmxBf16 {
                // SAFETY: the chosen instruction set has the instructions.
                unsafe { tile_products(ROUNDS) };
            } else {
                // SAFETY: as above.
                black_box(unsafe { dot_products(ROUNDS) });
            }
        });
    });
    (ROUNDS * products * cpu.threads()) as f64 / seconds
}

/// Four independent chains of 16 x 16 x 32 multiply-adds per round, of zeros.
///
/// # Safety
/// The processor has the matrix unit, and this process may use it.
#[cfg(target_arch = "x86_64")]
unsafe fn tile_products(rounds: usize) {
    #[repr(align(64))]
    struct Configuration([u8; 64]);
    let mut whole = Configuration([0; 64]);
    whole.0[0] = 1;
    for tile in 0..8 {
        // Bytes per row, rows.
        whole.0[16 + 2 * tile] = 64;
        whole.0[48 + tile] = 16;
    }
    // SAFETY: the caller vouches for the instructions, which read `whole` and change tiles only.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{configuration}]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            configuration = in(reg) &raw const whole,
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Sixteen independent chains of 32 multiply-adds per round; the chains never leave the registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_products(rounds: usize) -> f32 {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_reduce_add_ps,
        _mm512_set1_ps,
    };
    let half = _mm512_set1_ps(black_box(0.5));
    let x = _mm512_cvtne2ps_pbh(half, half);
    let mut sums: [__m512; 16] = [_mm512_set1_ps(0.0); 16];
    for _ in 0..rounds {
        // Written out: an inner loop over an array may put the chains into memory.
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = sums;
        sums = [
            _mm512_dpbf16_ps(a, x, x),
            _mm512_dpbf16_ps(b, x, x),
            _mm512_dpbf16_ps(c, x, x),
            _mm512_dpbf16_ps(d, x, x),
            _mm512_dpbf16_ps(e, x, x),
            _mm512_dpbf16_ps(f, x, x),
            _mm512_dpbf16_ps(g, x, x),
            _mm512_dpbf16_ps(h, x, x),
            _mm512_dpbf16_ps(i, x, x),
            _mm512_dpbf16_ps(j, x, x),
            _mm512_dpbf16_ps(k, x, x),
            _mm512_dpbf16_ps(l, x, x),
            _mm512_dpbf16_ps(m, x, x),
            _mm512_dpbf16_ps(n, x, x),
            _mm512_dpbf16_ps(o, x, x),
            _mm512_dpbf16_ps(p, x, x),
        ];
    }
    let mut total = _mm512_set1_ps(0.0);
    for sum in sums {
        total = _mm512_add_ps(total, sum);
    }
    _mm512_reduce_add_ps(total)
}

fn report(
    cpu: &Cpu,
    weights: &[u8],
    (read, peak): (f64, f64),
    (t, n, k): (usize, usize, usize),
) -> Result<(), Box<dyn Error>> {
    let x = vec![0.25f32; t * k];
    let mut out = vec![0.0f32; t * n];
    let bytes = n * k * 2;
    // Walk through the buffer, so that every call finds its weights outside the caches.
    let places = weights.len() / bytes;
    let mut failed = None;
    let seconds = best(|round| {
        let data = &weights[round % places * bytes..][..bytes];
        let weight = Matrix { dtype: DType::BF16, data, rows: n, cols: k };
        let job =
            LinearJob { weight: weight.into(), bias: None, out: &mut out, mode: Write::Store };
        failed = cpu.linear(&x, t, &mut [job]).err().or(failed.take());
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let (rate, flops) = (bytes as f64 / seconds, (2 * t * n * k) as f64 / seconds);
    println!(
        "[{n} x {k}] T={t:<4} {:8.1} GB/s ({:3.0} % of read) {:8.0} GFLOP/s ({:3.0} % of peak)",
        rate / 1e9,
        100.0 * rate / read,
        flops / 1e9,
        100.0 * flops / peak
    );
    Ok(())
}

/// 14 query heads, 2 kv heads of 64: the attention of a 0.5B model.
fn attention(cpu: &Cpu, context: usize, queries: usize) -> Result<(), Box<dyn Error>> {
    let (heads, kv_heads, dim, size) = (14, 2, 64, 16);
    let blocks = context / size;
    let bytes = context * kv_heads * dim * 2;
    let (mut k, mut v) = (vec![0u8; bytes], vec![0u8; bytes]);
    fill(&mut k);
    fill(&mut v);
    let kv = KvLayer {
        dtype: DType::BF16,
        k: &mut k,
        v: &mut v,
        num_blocks: blocks,
        num_kv_heads: kv_heads,
        block_size: size,
        head_dim: dim,
    };
    let table: Vec<u32> = (0..blocks as u32).rev().collect();
    let args = AttentionArgs {
        num_heads: heads,
        scale: 0.125,
        window: None,
        q_starts: &[0, queries as u32],
        context_lens: &[context as u32],
        block_tables: &[&table],
    };
    let mut q = vec![0.25; queries * heads * dim];
    cpu.activation(Activation::Silu, &mut q);
    let mut out = vec![0.0; q.len()];
    let mut failed = None;
    let seconds =
        best(|_| failed = cpu.attention(&args, &q, &kv, &mut out).err().or(failed.take()));
    if let Some(error) = failed {
        return Err(error.into());
    }
    let pairs = queries * (2 * context - queries + 1) / 2;
    let flops = (4 * pairs * heads * dim) as f64 / seconds / 1e9;
    let rate = (2 * bytes) as f64 / seconds / 1e9;
    println!(
        "attention context={context:<6} queries={queries:<4} {:9.1} us {rate:7.1} GB/s {flops:7.0} GFLOP/s",
        seconds * 1e6
    );
    Ok(())
}
