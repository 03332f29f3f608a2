//! Prints how close each shape of linear layer and of attention comes to what this machine can do.
//!
//! `tyndall bench machine` prints the ceilings alone.
//!
//! `cargo run --release -p tyndall-kernels --example roofline [threads] [isa]`
#![expect(clippy::print_stdout, reason = "the output of a command")]

use std::error::Error;
use std::time::Instant;

use tyndall_kernels::{
    Activation, AttentionArgs, CeilingOptions, Ceilings, Cpu, CpuOptions, DType, Isa, KvLayer,
    LinearJob, Matrix, Sight, Write, ZeroedMemory,
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
    let measured = Ceilings::measure(&cpu, &CeilingOptions::default())?;
    let peak = measured.bf16.unwrap_or(measured.f32);
    println!("barrier               {:8.0} ns", measured.barrier_s * 1e9);
    println!("memory read           {:8.1} GB/s", measured.read_bytes_per_s / 1e9);
    println!("{:<22}{:8.0} GFLOP/s", peak.instructions, peak.ops_per_s / 1e9);
    let ceilings = (measured.read_bytes_per_s, peak.ops_per_s);
    for (n, k) in [(896, 4864), (4864, 896), (151_936, 896), (8192, 2048)] {
        for t in [1, 8, 16, 32, 48, 64, 128, 256, 512] {
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
        sight: Sight::Past,
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
