//! The requests of a run, drawn before it begins.

use crate::error::BenchError;
use crate::lengths::Lengths;
use crate::random::Random;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// Frequent English words; most tokenizers have one token for each.
const WORDS: &str = "the of and to in is that for it as was with be by on not he his but at are \
    this have from or had an they which one you were all her she there would their we him been \
    has when who will no more if out so up said what its about than into them can only other \
    time new some could these two may first then do any like my now over such our man me even \
    most made after also did many off before must well back through years much where your way \
    down should because long each just state those people too little good world make very year \
    still see own work men day get here old life both between being under three never know same \
    last another while us might great go come since against right came take used himself few \
    house use during without again place home around small however found part school general \
    high upon end say set number water light hand open next white room young night country";

/// Longest trace, in requests: each is kept in memory.
const MAX_REQUESTS: usize = 1_000_000;

/// What decides the requests.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) prompt: Lengths,
    pub(crate) output: Lengths,
    /// Words at the beginning that requests share.
    pub(crate) prefix_len: u32,
    /// Different beginnings.
    pub(crate) num_prefixes: u32,
    pub(crate) seed: u64,
}

/// A request that will be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    /// After the beginning; zero in a closed loop.
    pub(crate) at: Duration,
    pub(crate) prompt: String,
    /// Words of the prompt.
    pub(crate) prompt_len: u32,
    /// Tokens to generate.
    pub(crate) output_len: u32,
}

/// A line of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Arrival {
    pub(crate) at_s: f64,
    pub(crate) prompt_len: Option<u32>,
    pub(crate) output_len: Option<u32>,
}

impl Shape {
    /// `count` requests; `at_s` says when each one comes and may set its lengths.
    pub(crate) fn plan(&self, arrivals: &[Arrival]) -> Vec<Planned> {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let prefixes: Vec<String> = (0..self.num_prefixes.max(1))
            .map(|prefix| sentence(&words, self.prefix_len, &mut self.random(1, prefix.into())))
            .collect();
        let plan = |(index, arrival): (usize, &Arrival)| {
            let mut random = self.random(2, index as u64);
            let own = arrival.prompt_len.unwrap_or_else(|| self.prompt.draw(&mut random));
            let output_len = arrival.output_len.unwrap_or_else(|| self.output.draw(&mut random));
            let prefix = &prefixes[random.below(prefixes.len())];
            let mut prompt = prefix.clone();
            if !prefix.is_empty() && own > 0 {
                prompt.push(' ');
            }
            prompt.push_str(&sentence(&words, own, &mut random));
            let at = Duration::try_from_secs_f64(arrival.at_s).unwrap_or_default();
            Planned { at, prompt, prompt_len: self.prefix_len + own, output_len }
        };
        arrivals.iter().enumerate().map(plan).collect()
    }

    /// Requests that come one exponential gap after another: a Poisson process.
    pub(crate) fn poisson(&self, count: usize, rate: f64) -> Vec<Arrival> {
        let mut random = self.random(3, 0);
        let mut at_s = 0.0;
        let next = |index| {
            // The first one begins the run.
            at_s += if index == 0 { 0.0 } else { random.exponential() / rate };
            Arrival { at_s, prompt_len: None, output_len: None }
        };
        (0..count).map(next).collect()
    }

    fn random(&self, purpose: u64, index: u64) -> Random {
        Random::new(self.seed.wrapping_mul(4).wrapping_add(purpose), index)
    }
}

/// Requests of a closed loop: each when there is room.
pub(crate) fn at_once(count: usize) -> Vec<Arrival> {
    vec![Arrival { at_s: 0.0, prompt_len: None, output_len: None }; count]
}

fn sentence(words: &[&str], length: u32, random: &mut Random) -> String {
    let words: Vec<&str> = (0..length).map(|_| words[random.below(words.len())]).collect();
    words.join(" ")
}

/// A line of a trace file: ours, or that of the Mooncake traces.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(alias = "at_s")]
    arrival_s: Option<f64>,
    /// Milliseconds.
    timestamp: Option<f64>,
    #[serde(alias = "input_length")]
    prompt_len: Option<u32>,
    #[serde(alias = "output_length")]
    output_len: Option<u32>,
}

/// Reads a trace: one JSON object per line.
pub(crate) fn read_trace(path: &Path) -> Result<Vec<Arrival>, BenchError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| BenchError::of(&format!("failed to read {}", path.display()), &error))?;
    trace(&text).map_err(|(line, problem)| {
        BenchError::new(format!("{}:{line}: {problem}", path.display())).with_cure(
            "each line is one request: {\"arrival_s\": 0.5, \"prompt_len\": 128, \
             \"output_len\": 64}, the lengths optional",
        )
    })
}

/// The arrivals in order, or the first line that is none.
fn trace(text: &str) -> Result<Vec<Arrival>, (usize, String)> {
    let mut arrivals = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: String| (index + 1, problem);
        let line: Line = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let at_s = line.arrival_s.or_else(|| line.timestamp.map(|ms| ms / 1e3));
        let at_s = at_s.ok_or_else(|| wrong("arrival_s is missing".to_owned()))?;
        if !(0.0..1e9).contains(&at_s) {
            return Err(wrong(format!("an arrival at {at_s} s is not from 0 on")));
        }
        let lengths = [line.prompt_len, line.output_len];
        if lengths.into_iter().flatten().any(|length| !(1..=1_000_000).contains(&length)) {
            return Err(wrong("lengths are from 1 to 1000000".to_owned()));
        }
        arrivals.push(Arrival { at_s, prompt_len: line.prompt_len, output_len: line.output_len });
        if arrivals.len() > MAX_REQUESTS {
            return Err(wrong(format!("a trace has at most {MAX_REQUESTS} requests")));
        }
    }
    if arrivals.is_empty() {
        return Err((1, "the trace has no request".to_owned()));
    }
    arrivals.sort_by(|a: &Arrival, b| a.at_s.total_cmp(&b.at_s));
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape() -> Shape {
        Shape {
            prompt: "uniform:3:9".parse().unwrap(),
            output: Lengths::Fixed(5),
            prefix_len: 4,
            num_prefixes: 2,
            seed: 1,
        }
    }

    #[test]
    fn prompts_have_their_lengths_and_prefixes() {
        let planned = shape().plan(&at_once(50));
        let mut prefixes = std::collections::BTreeSet::new();
        for request in &planned {
            let words: Vec<&str> = request.prompt.split(' ').collect();
            assert_eq!(words.len() as u32, request.prompt_len);
            assert!((7..=13).contains(&request.prompt_len), "{request:?}");
            prefixes.insert(words[..4].join(" "));
        }
        assert_eq!(prefixes.len(), 2);
        assert_eq!(planned, shape().plan(&at_once(50)), "the seed decides");
        assert_ne!(planned, Shape { seed: 2, ..shape() }.plan(&at_once(50)));
    }

    #[test]
    fn arrivals_have_their_rate() {
        let arrivals = shape().poisson(4001, 10.0);
        assert!(arrivals.windows(2).all(|pair| pair[0].at_s <= pair[1].at_s));
        let rate = 4000.0 / arrivals[4000].at_s;
        assert!((rate - 10.0).abs() < 0.6, "{rate}");
        assert_eq!(arrivals, shape().poisson(4001, 10.0));
    }

    #[test]
    fn traces_of_both_kinds_are_read_in_order() {
        let text = "{\"arrival_s\": 1.5, \"prompt_len\": 7}\n\n\
            {\"timestamp\": 250, \"input_length\": 3, \"output_length\": 4, \"hash_ids\": [1]}\n";
        let arrivals = trace(text).unwrap();
        assert_eq!(arrivals[0], Arrival { at_s: 0.25, prompt_len: Some(3), output_len: Some(4) });
        assert_eq!(arrivals[1], Arrival { at_s: 1.5, prompt_len: Some(7), output_len: None });
        for (bad, line) in [
            ("", 1),
            ("{}", 1),
            ("{\"arrival_s\": 0}\n{\"arrival_s\": -1}", 2),
            ("{\"arrival_s\": 0, \"prompt_len\": 0}", 1),
            ("nonsense", 1),
        ] {
            assert_eq!(trace(bad).unwrap_err().0, line, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in ".{0,80}") {
            if let Ok(arrivals) = trace(&text) {
                prop_assert!(!arrivals.is_empty());
            }
        }
    }
}
