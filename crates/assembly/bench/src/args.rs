//! The command line of `tyndall bench`.

use crate::chaos::ChaosArgs;
use crate::cold_start::ColdStartArgs;
use crate::cycles::CyclesArgs;
use crate::engine::EngineArgs;
use crate::footprint::{IdleArgs, MemoryArgs};
use crate::http::HttpArgs;
use crate::overload::OverloadArgs;
use crate::quality::QualityArgs;
use crate::roofline::MachineArgs;
use crate::serve::ServeArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tyndall bench machine                              what this machine can do at most
  tyndall bench engine demo                          prefill and decode, without a server
  tyndall bench quality --quantization int8          what rounded weights change
  tyndall bench serve --concurrency 8                load on a server that it starts and ends
  tyndall bench serve --url http://127.0.0.1:8000    load on a server that runs
  tyndall bench cold-start demo                      wakes from zero, phase by phase
  tyndall bench chaos --seconds 60                   what dies, and what becomes of requests
  tyndall bench cycles -n 1000                       sleep and wake, again and again
  tyndall bench overload demo                        ten times more than it can do
  tyndall bench compare before.json after.json       what changed, figure by figure

Figures are printed, never judged. --json keeps them with the machine they belong to, --html draws
them on one page that needs nothing else.";

const MACHINE: &str = "\
Rates are the best of many short calls. A multiply-add counts as two operations. The other
benchmarks print these figures beside their own.

Examples:
  tyndall bench machine
  tyndall bench machine --threads 1 --json machine.json";

const ENGINE: &str = "\
Prompts are random tokens and share nothing. What decode reads is the weights, once per step, and
the keys and values of every sequence; what it computes is two operations per weight and token.

Examples:
  tyndall bench engine ./my-model
  tyndall bench engine ./my-model --batch 1,4,16 --prompt-len 512 --output-len 128
  tyndall bench engine ./my-model --isa avx2 --threads 1
  tyndall bench engine ./my-model --quantization int8";

const QUALITY: &str = "\
The model as it is writes texts of its own, at temperature 1; then both models read them, and their
distributions of each next token are compared: KL(as it is || quantized), in nats. 0 is no change;
it grows with the square of one: at 0.005, probabilities differ by some 10 %.

Examples:
  tyndall bench quality demo --quantization int4
  tyndall bench quality ./my-model --quantization int8 --sequences 32 --tokens 512 --json int8.json";

const SERVE: &str = "\
Definitions are those of vLLM's benchmark: TTFT is sending to first token, TPOT is (E2EL - TTFT) /
(output tokens - 1), ITL each gap between pieces of a stream, goodput the requests per second that
meet every target. Tokens are counted by the server's usage; where it states none, pieces are, and
the result says so. Prompts are random frequent words.

Without --url the server is `tyndall run MODEL` with one replica; what follows -- goes to it.

Examples:
  tyndall bench serve --concurrency 32 --num-requests 320 --ignore-eos
  tyndall bench serve --url http://127.0.0.1:8000 --api chat --rate 4 --goodput ttft:500 --goodput tpot:50
  tyndall bench serve --model ./my-model --prompt-len lognormal:256:0.8 --output-len uniform:16:256 -- --threads 2
  tyndall bench serve --prefix-len 512 --num-prefixes 4 --html page.html
  tyndall bench serve --trace arrivals.jsonl --json result.json";

const HTTP: &str = "\
Each connection has one request at a time and is kept open.

Examples:
  tyndall bench http http://127.0.0.1:8000/v1/models
  tyndall bench http http://127.0.0.1:8000/healthz --connections 64 --duration 10
  tyndall bench http http://127.0.0.1:8000/generate -X POST -d '{\"prompt\": \"Hello\"}' -n 100";

const COLD_START: &str = "\
The floor is the start of a process and one read of the weights at the measured bandwidth. The page
cache is warm: a first wake is not counted.

Examples:
  tyndall bench cold-start demo
  tyndall bench cold-start ./my-model --num-wakes 30 --html wakes.html";

const IDLE: &str = "\
Examples:
  tyndall bench idle demo
  tyndall bench idle demo --seconds 120
  tyndall bench idle --deployments 1000              what so many deployments cost that sleep";

const CHAOS: &str = "\
Starts a server with two applications of the demo model, one that is always there and one that
sleeps, and asks it without pause, whole answers and streams in turn, while one fault after another
is injected:

  controller, proxy, replica   it is killed
  several                      some of them at once
  all                          the supervisor is killed, with it everything; it is started again
  stop                         a replica is stopped for a while
  update, bad-update           a new version; one that cannot start and is rolled back by itself
  scale                        another number of replicas
  delete                       the application that sleeps is deleted and deployed again

A request is answered; refused with the time to come again; cut, because the proxy that had its
connection was killed, or nothing listened; a stream that had begun and ended with an error, because
its replica was killed; absent, because its application was deleted; or lost, which is everything
else. The command fails when one is lost, or a process is left at the end.

Examples:
  tyndall bench chaos
  tyndall bench chaos --seconds 600 --clients 32
  tyndall bench chaos --seed 7 --faults controller,replica --json chaos.json";

const CYCLES: &str = "\
Each cycle sends one request to a model that sleeps and waits until no replica is left, neither in
the admin API nor among the processes.

Examples:
  tyndall bench cycles
  tyndall bench cycles -n 50 --idle-timeout 0.1";

const OVERLOAD: &str = "\
Clients that wait for their answers find the peak; then requests come at multiples of it, at random
times (open loop), and a client goes away at its deadline. Goodput is what is answered with 200 by
then. A request is answered, refused with 503 or 429 and the time to come again, or lost, which is
everything else; the command fails when one is lost. What sends is one thread, and its share of a
core is told.

A program is sent --body. `cargo build --release -p tyndall --example wait` makes one whose calls
take 20 ms, 8 at a time, so that its capacity is known: 400 per second.

Examples:
  tyndall bench overload
  tyndall bench overload ./my-model --output-len 64 --max-ongoing-requests 32 --deadline 30
  tyndall bench overload target/release/examples/wait --args '{\"ms\": 50}'
  tyndall bench overload --factors 1,20 --seconds 30 --html page.html";

const MEMORY: &str = "\
Weights are mapped, so that replicas share the pages of their file. The PSS divides a shared page
among those who share it: its sum is what the machine really holds.

Examples:
  tyndall bench memory ./my-model --replicas 3";

const COMPARE: &str = "\
Examples:
  tyndall bench serve --json before.json
  tyndall bench serve --json after.json
  tyndall bench compare before.json after.json";

/// Everything after `tyndall bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Which one.
    #[command(subcommand)]
    pub benchmark: Benchmark,
}

/// Where results go besides the terminal.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Write the result, with machine and command line, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write the result as one self-contained page with plots
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
}

/// Two results of one benchmark.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// What was before, as --json wrote it
    pub a: PathBuf,
    /// What is now
    pub b: PathBuf,
}

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Benchmark {
    /// What this machine can do at most: memory reads, multiply-adds, spawns, barriers, sockets
    #[command(after_help = MACHINE)]
    Machine {
        /// What is measured.
        #[command(flatten)]
        args: MachineArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Prefill and decode of the engine alone, beside the machine's ceilings
    #[command(after_help = ENGINE)]
    Engine {
        /// What is measured.
        #[command(flatten)]
        args: EngineArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// How far a quantized model's next tokens are from those of the model as it is
    #[command(after_help = QUALITY)]
    Quality {
        /// What is measured.
        #[command(flatten)]
        args: QualityArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Load on an OpenAI-compatible server: latencies, throughput, goodput
    #[command(after_help = SERVE)]
    Serve {
        /// What is measured.
        #[command(flatten)]
        args: ServeArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Requests per second and latency of one route
    #[command(after_help = HTTP)]
    Http {
        /// What is measured.
        #[command(flatten)]
        args: HttpArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// A request at zero replicas to its first token, phase by phase
    #[command(after_help = COLD_START)]
    ColdStart {
        /// What is measured.
        #[command(flatten)]
        args: ColdStartArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Memory and processor time of all processes at zero replicas
    #[command(after_help = IDLE)]
    Idle {
        /// What is measured.
        #[command(flatten)]
        args: IdleArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Memory of many replicas of one model
    #[command(after_help = MEMORY)]
    Memory {
        /// What is measured.
        #[command(flatten)]
        args: MemoryArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Requests while processes are killed and versions change: what becomes of them
    #[command(after_help = CHAOS)]
    Chaos {
        /// What is done.
        #[command(flatten)]
        args: ChaosArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Sleep and wake, again and again
    #[command(after_help = CYCLES)]
    Cycles {
        /// What is done.
        #[command(flatten)]
        args: CyclesArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// More requests than a deployment can answer: what is left of its throughput
    #[command(after_help = OVERLOAD)]
    Overload {
        /// What is done.
        #[command(flatten)]
        args: OverloadArgs,
        /// Where it goes.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One result over another, figure by figure
    #[command(after_help = COMPARE)]
    Compare(CompareArgs),
}
