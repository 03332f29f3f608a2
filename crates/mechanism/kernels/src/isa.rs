//! The ladder of instruction sets. One rung is chosen when a [`crate::Cpu`] is made, never later.

use std::fmt;
use std::str::FromStr;

use crate::error::KernelError;

/// An instruction set the kernels are written for, best first.
///
/// Results of two rungs differ in the last bits; results of one rung are reproducible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// AVX-512 BF16, and bf16 weights on the matrix unit (AMX-BF16) where the kernel permits it.
    AmxBf16,
    /// AVX-512 F/BW/DQ/VL with BF16 dot products: bf16 weights meet activations rounded to bf16.
    Avx512Bf16,
    /// AVX-512 F/BW/DQ/VL: every weight is widened to f32.
    Avx512,
    /// AVX2, FMA and F16C: every weight is widened to f32.
    Avx2,
    /// No assumptions beyond the build target.
    Portable,
}

impl Isa {
    /// All rungs, best first.
    pub const ALL: [Isa; 5] =
        [Isa::AmxBf16, Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// The best rung this processor has.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Whether this processor (and its operating system) can run the rung.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::AmxBf16 => Isa::Avx512Bf16.is_available() && crate::amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::AmxBf16 => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::AmxBf16 => "amx",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        })
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Isa, KernelError> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.to_string() == name)
            .ok_or_else(|| KernelError::UnknownIsa(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
        }
        let message = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(message.contains("sse9") && message.contains("avx2"), "{message}");
    }

    #[test]
    fn the_detected_rung_is_available() {
        assert!(Isa::detect().is_available());
        assert!(Isa::Portable.is_available());
    }
}
