//! Linear layers with weights in groups beside bf16 ones: time per call, bytes and operations per
//! second, for one layer shape of a small model and its head.
//!
//! `cargo run --release -p tyndall-kernels --example grouped [ISA]`

#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::error::Error;
use std::time::Instant;

use tyndall_kernels::{
    Cpu, CpuOptions, DType, GroupedMatrix, GroupedType, LinearJob, Matrix, Weight,
};

fn main() -> Result<(), Box<dyn Error>> {
    let isa = std::env::args().nth(1).map(|name| name.parse()).transpose()?;
    let cpu = Cpu::new(CpuOptions { threads: None, isa })?;
    println!("{} on {} threads", cpu.isa(), cpu.threads());
    for (n, k) in [(4864, 896), (896, 4864), (151_936, 896)] {
        // Several copies, so that weights come from memory as they do in a model.
        let copies = (256usize << 20).div_ceil(n * k * 2);
        let plain = bf16(copies * n * k);
        let plain: Vec<Matrix<'_>> = plain
            .chunks(n * k * 2)
            .map(|data| Matrix::new(DType::BF16, data, n, k))
            .collect::<Result<_, _>>()?;
        report(&cpu, "bf16", plain.iter().map(|&matrix| matrix.into()).collect())?;
        for to in [GroupedType::Int8, GroupedType::Int4] {
            let bytes = to.matrix_bytes(n, k)?;
            let mut data = vec![0; copies * bytes];
            let start = Instant::now();
            for (matrix, out) in plain.iter().zip(data.chunks_mut(bytes)) {
                cpu.quantize(*matrix, to, out)?;
            }
            let rate = (copies * n * k) as f64 / start.elapsed().as_secs_f64();
            println!("  rounding to {to:?}: {:.0} M weights/s", rate / 1e6);
            let weights = data.chunks(bytes).map(|data| GroupedMatrix::new(to, data, n, k));
            let weights = weights.map(|weight| weight.map(Weight::from)).collect::<Result<_, _>>();
            report(&cpu, &format!("{to:?}"), weights?)?;
        }
    }
    Ok(())
}

/// Small normal numbers.
fn bf16(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (0x3c00 | (state >> 16 & 0x80ff) as u16).to_le_bytes()
    };
    (0..count).flat_map(|_| next()).collect()
}

fn report(cpu: &Cpu, name: &str, weights: Vec<Weight<'_>>) -> Result<(), Box<dyn Error>> {
    let (n, k) = (weights[0].rows(), weights[0].cols());
    let bytes = match weights[0] {
        Weight::Plain(matrix) => matrix.data.len(),
        Weight::Grouped(matrix) => matrix.data.len(),
    };
    for t in [1, 8, 32, 512].into_iter().filter(|t| t * n <= 16 << 20) {
        let x: Vec<f32> = (0..t * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let mut out = vec![0.0; t * n];
        let (start, mut least) = (Instant::now(), f64::INFINITY);
        for weight in weights.iter().cycle() {
            let begin = Instant::now();
            cpu.linear(&x, t, &mut [LinearJob::new(*weight, &mut out)])?;
            least = least.min(begin.elapsed().as_secs_f64());
            if start.elapsed().as_secs_f64() > 0.5 {
                break;
            }
        }
        println!(
            "{name:>5} {n}x{k} T={t:<4} {:8.3} ms {:6.1} GB/s {:7.0} Gop/s",
            least * 1e3,
            bytes as f64 / least / 1e9,
            2.0 * (t * n * k) as f64 / least / 1e9
        );
    }
    Ok(())
}
