//! Steps: named, timed on the way, the first failure ends the task.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One thing that can fail; it says how many tests it ran.
pub(crate) struct Step {
    name: &'static str,
    run: Box<dyn FnOnce() -> Result<usize>>,
}

impl Step {
    pub(crate) fn new(name: &'static str, run: impl FnOnce() -> Result<usize> + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Runs the steps in order; the last line is the number of tests in all.
pub(crate) fn run_all(steps: impl IntoIterator<Item = Step>) -> Result<()> {
    let mut passed = 0;
    for Step { name, run } in steps {
        eprintln!("── {name}");
        let clock = Clock::start()?;
        passed += run().with_context(|| format!("the step {name:?} failed"))?;
        clock.report(name)?;
    }
    if passed > 0 {
        say(&format!("{passed} passed, 0 failed"));
    }
    Ok(())
}

/// When a step began, and the CPU time until then.
struct Clock {
    start: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Result<Self> {
        Ok(Self { start: Instant::now(), cpu: cpu_time()? })
    }

    /// A step that takes much less CPU time than two cores have waits for something.
    fn report(&self, name: &str) -> Result<()> {
        let wall = self.start.elapsed().as_secs_f64();
        let cpu = (cpu_time()? - self.cpu).as_secs_f64();
        eprintln!("── {name}: {wall:.0} s, {cpu:.0} s of CPU time");
        Ok(())
    }
}

/// What this process and the children that it waited for have computed, and theirs.
fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    cpu_time_in(&stat).with_context(|| format!("failed to read {stat:?}"))
}

/// The sum of the fields utime to cstime of proc_pid_stat(5), which are in hundredths of a second.
fn cpu_time_in(stat: &str) -> Option<Duration> {
    // The name of the program may have spaces and parentheses.
    let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(4);
    let ticks: u64 = fields.map(|field| field.parse::<u64>()).sum::<Result<_, _>>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Runs a test runner, passes its output on, and adds up the `N passed` of its summaries.
pub(crate) fn tests(command: &mut Command) -> Result<usize> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {command:?}"))?;
    let output = child.stdout.take().context("its output is a pipe")?;
    let mut passed = 0;
    for line in BufReader::new(output).lines() {
        let line = line?;
        passed += passed_in(&line);
        say(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    if passed == 0 {
        bail!("{command:?} ran no test");
    }
    Ok(passed)
}

/// The number before ` passed` in a summary line of cargo's or pytest's.
fn passed_in(line: &str) -> usize {
    let summary = line.strip_prefix("test result: ok. ").unwrap_or(line);
    let count = summary.split_once(" passed").map(|(count, _)| count);
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Prints a line of a task's output.
#[expect(clippy::print_stdout, reason = "the output of tests is what the task is for")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Runs a command with inherited output; its failure is ours.
pub(crate) fn command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Builds that run behind the steps, in what time of the cores these leave.
pub(crate) struct Behind(Vec<Child>);

impl Behind {
    /// Starts cargo for each; it lets one build at a time into a folder.
    pub(crate) fn start(builds: &[&[&str]]) -> Result<Behind> {
        let mut behind = Behind(Vec::new());
        for args in builds {
            let mut nice = Command::new("nice");
            nice.args(["-n", "19", env!("CARGO"), "--quiet"]).args(*args);
            // Else what the README builds later would be something else to cargo.
            nice.env_remove("CARGO_MANIFEST_DIR");
            behind.0.push(nice.spawn().context("failed to start nice")?);
        }
        Ok(behind)
    }

    /// Waits for all.
    pub(crate) fn end(mut self) -> Result<()> {
        for build in &mut self.0 {
            let status = build.wait()?;
            ensure!(status.success(), "a release build ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Behind {
    /// A step has failed, so that nobody needs them; those that have ended stay as they are.
    fn drop(&mut self) {
        for build in &mut self.0 {
            drop(build.kill());
            drop(build.wait());
        }
    }
}

/// Runs the cargo that runs us.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    command(Command::new(env!("CARGO")).args(args))
}

#[cfg(test)]
mod tests {
    use super::{cpu_time_in, passed_in};
    use std::time::Duration;

    #[test]
    fn summaries_are_counted_and_nothing_else() {
        assert_eq!(passed_in("test result: ok. 23 passed; 0 failed; 0 ignored"), 23);
        assert_eq!(passed_in("20 passed in 1.95s"), 20);
        assert_eq!(passed_in("test a_wall_is_passed ... ok"), 0);
        assert_eq!(passed_in("he passed"), 0);
    }

    #[test]
    fn the_cpu_time_is_that_of_the_process_and_of_its_children() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 94 0 0 0 100 20 3000 400 20 0 1 0 9 0";
        assert_eq!(cpu_time_in(stat), Some(Duration::from_millis(35_200)));
        assert_eq!(cpu_time_in(""), None);
    }
}
