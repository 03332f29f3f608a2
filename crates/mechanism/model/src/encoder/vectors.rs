//! What is done with embeddings once they are there.

use super::sentence::{Matryoshka, Similarity};

/// Brings a vector to length 1; one of length 0 stays.
pub fn normalize(vector: &mut [f32]) {
    // The least length that torch divides by.
    let length = dot(vector, vector).sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= length);
}

impl Similarity {
    /// How alike two embeddings of the same length are: more is closer.
    pub fn between(self, a: &[f32], b: &[f32]) -> f32 {
        let differences = || std::iter::zip(a, b).map(|(a, b)| a - b);
        match self {
            Self::Cosine => dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()).max(1e-12),
            Self::Dot => dot(a, b),
            Self::Euclidean => -differences().map(|value| value * value).sum::<f32>().sqrt(),
            Self::Manhattan => -differences().map(f32::abs).sum::<f32>(),
        }
    }
}

impl Matryoshka {
    /// Whether so many first numbers of an embedding of `dimension` are an embedding.
    ///
    /// # Errors
    /// What would be.
    pub fn check(&self, length: u32, dimension: usize) -> Result<(), String> {
        let is_within = length >= 1 && length as usize <= dimension;
        match self {
            Self::No if length as usize == dimension => Ok(()),
            Self::No => Err(format!("{dimension}: the model was not trained for fewer")),
            Self::Any if is_within => Ok(()),
            Self::Any => Err(format!("from 1 to {dimension}")),
            Self::Lengths(lengths) if lengths.contains(&length) && is_within => Ok(()),
            Self::Lengths(lengths) => {
                let lengths: Vec<String> = lengths.iter().map(u32::to_string).collect();
                Err(format!("one of {}", lengths.join(", ")))
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    std::iter::zip(a, b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_get_length_one() {
        let mut vector = [3.0, -4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
        let mut nothing = [0.0, 0.0];
        normalize(&mut nothing);
        assert_eq!(nothing, [0.0, 0.0]);
    }

    #[test]
    fn similarities_are_those_of_sentence_transformers() {
        let check = |similarity: Similarity, expected: f32| {
            let found = similarity.between(&[3.0, 4.0], &[4.0, 3.0]);
            assert!((found - expected).abs() < 1e-6, "{similarity:?}: {found}");
        };
        check(Similarity::Cosine, 0.96);
        check(Similarity::Dot, 24.0);
        check(Similarity::Euclidean, -(2f32.sqrt()));
        check(Similarity::Manhattan, -2.0);
        assert_eq!(Similarity::Cosine.between(&[0.0], &[1.0]), 0.0);
    }

    #[test]
    fn only_models_that_were_trained_for_it_give_shorter_vectors() {
        let refused = |matryoshka: &Matryoshka, length| matryoshka.check(length, 8).unwrap_err();
        assert_eq!(Matryoshka::No.check(8, 8), Ok(()));
        assert!(refused(&Matryoshka::No, 4).contains("8: the model was not trained"));
        assert_eq!(Matryoshka::Any.check(3, 8), Ok(()));
        assert_eq!(refused(&Matryoshka::Any, 9), "from 1 to 8");
        let lengths = Matryoshka::Lengths(vec![2, 4, 16]);
        assert_eq!(lengths.check(4, 8), Ok(()));
        assert_eq!(refused(&lengths, 3), "one of 2, 4, 16");
        assert_eq!(refused(&lengths, 16), "one of 2, 4, 16");
    }
}
