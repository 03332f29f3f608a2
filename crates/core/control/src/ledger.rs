//! What the machine has, and what replicas hold of it.

use std::collections::BTreeMap;
use std::fmt;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{DeploymentActor, DeploymentConfig};

/// Shares of GPUs are added up; what is less than this is no share.
const ROUNDING: f64 = 1e-6;

/// What the machine has for replicas.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Capacity {
    /// Bytes of memory; absent is not accounted.
    pub memory_bytes: Option<u64>,
    /// CPUs; absent is not accounted.
    pub num_cpus: Option<f64>,
    /// GPUs, by the names that processes are given.
    pub gpus: Vec<String>,
    /// Others, by name.
    pub custom: BTreeMap<String, f64>,
}

/// What a replica takes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Need {
    pub(crate) memory_bytes: u64,
    num_cpus: f64,
    num_gpus: f64,
    custom: BTreeMap<String, f64>,
}

impl Need {
    pub(crate) fn of(config: &DeploymentConfig) -> Self {
        let planned = config.workload.model().and_then(|model| model.memory_budget_bytes);
        Self {
            memory_bytes: config.resources.memory_bytes.or(planned).unwrap_or(0),
            num_cpus: config.resources.num_cpus,
            num_gpus: config.resources.num_gpus,
            custom: config.resources.custom.clone(),
        }
    }

    /// What so many replicas take together; GPUs are not added up, because shares of different ones
    /// make no whole one.
    fn times(&self, number: u32) -> Self {
        let factor = f64::from(number);
        Self {
            memory_bytes: self.memory_bytes.saturating_mul(number.into()),
            num_cpus: self.num_cpus * factor,
            num_gpus: self.num_gpus,
            custom: self.custom.iter().map(|(name, n)| (name.clone(), n * factor)).collect(),
        }
    }

    pub(crate) fn of_actor(actor: &DeploymentActor) -> Self {
        let own = &actor.resources;
        Self {
            memory_bytes: own.memory_bytes.unwrap_or(0),
            num_cpus: own.num_cpus,
            num_gpus: own.num_gpus,
            custom: own.custom.clone(),
        }
    }
}

/// Why something does not fit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shortage {
    pub(crate) what: String,
    pub(crate) needed: f64,
    pub(crate) free: f64,
    pub(crate) total: f64,
}

impl Shortage {
    /// It would not fit on an empty machine either.
    pub(crate) fn is_final(&self) -> bool {
        self.needed > self.total + ROUNDING
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, needed, free, total } = self;
        if what == MEMORY {
            let gib = |bytes: &f64| bytes / f64::from(1 << 30);
            let (needed, free, total) = (gib(needed), gib(free), gib(total));
            write!(f, "needs {needed:.2} GiB of memory, {free:.2} of {total:.2} GiB are free")
        } else {
            write!(f, "needs {needed} {what}, {free} of {total} are free")
        }
    }
}

const MEMORY: &str = "memory";

#[derive(Debug, Clone)]
struct Held {
    need: Need,
    /// Which GPUs, and the share of each.
    gpus: Vec<(String, f64)>,
}

/// Who holds what. What is taken is what will be used at most, not what is used now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    capacity: Capacity,
    held: BTreeMap<ReplicaId, Held>,
    memory_bytes: u64,
    num_cpus: f64,
    /// What is used of each of the machine's, in their order.
    gpus: Vec<f64>,
    custom: BTreeMap<String, f64>,
}

impl Ledger {
    pub(crate) fn set_capacity(&mut self, capacity: Capacity) {
        let used = |gpu: &String| {
            let shares = self.held.values().flat_map(|held| &held.gpus);
            shares.filter(|(name, _)| name == gpu).map(|(_, share)| share).sum()
        };
        self.gpus = capacity.gpus.iter().map(used).collect();
        self.capacity = capacity;
    }

    /// What is missing for so many replicas at once, if anything.
    pub(crate) fn shortage(&self, need: &Need, number: u32) -> Option<Shortage> {
        let gpus = self.gpu_shortage(need.num_gpus, number);
        let need = need.times(number);
        let memory = self.capacity.memory_bytes.map(|_| self.memory_of_one(&need));
        let cpus = self.capacity.num_cpus.map(|total| Shortage {
            what: "CPUs".to_owned(),
            needed: need.num_cpus,
            free: (total - self.num_cpus).max(0.0),
            total,
        });
        let custom = need.custom.iter().map(|(name, needed)| {
            let total = self.capacity.custom.get(name).copied().unwrap_or(0.0);
            let used = self.custom.get(name).copied().unwrap_or(0.0);
            let free = (total - used).max(0.0);
            Shortage { what: name.clone(), needed: *needed, free, total }
        });
        let is_short = |s: &Shortage| s.needed > s.free + ROUNDING;
        memory.into_iter().chain(cpus).chain(custom).filter(is_short).chain(gpus).next()
    }

    fn gpu_shortage(&self, wanted: f64, number: u32) -> Option<Shortage> {
        if wanted <= ROUNDING {
            return None;
        }
        let mut used = self.gpus.clone();
        let mut take = || {
            let chosen = choose_gpus(&used, wanted)?;
            chosen.into_iter().for_each(|(gpu, share)| used[gpu] += share);
            Some(())
        };
        if (0..number).try_for_each(|_| take()).is_some() {
            return None;
        }
        let free = self.gpus.iter().fold(0.0, |free, used| free + 1.0 - used);
        let total = self.gpus.len() as f64;
        let needed = match number {
            0 | 1 => wanted,
            // As many as it takes on a machine where nothing else runs.
            _ if wanted < 1.0 => (f64::from(number) / (1.0 / wanted + ROUNDING).floor()).ceil(),
            _ => f64::from(number) * wanted.ceil(),
        };
        // Shares that lie on several GPUs make no whole one.
        let free = if free >= needed { 0.0 } else { free };
        Some(Shortage { what: "GPUs".to_owned(), needed, free, total })
    }

    /// What so many replicas need of memory, and what there is.
    pub(crate) fn memory(&self, need: &Need, number: u32) -> Shortage {
        self.memory_of_one(&need.times(number))
    }

    fn memory_of_one(&self, need: &Need) -> Shortage {
        let total = self.capacity.memory_bytes.unwrap_or(u64::MAX);
        Shortage {
            what: MEMORY.to_owned(),
            needed: need.memory_bytes as f64,
            free: total.saturating_sub(self.memory_bytes) as f64,
            total: total as f64,
        }
    }

    /// Takes it, also where it does not fit: what runs already is not asked. The GPUs it gets.
    pub(crate) fn take(&mut self, id: ReplicaId, need: Need) -> Vec<String> {
        if let Some(held) = self.held.get(&id) {
            return held.gpus.iter().map(|(gpu, _)| gpu.clone()).collect();
        }
        let chosen = choose_gpus(&self.gpus, need.num_gpus).unwrap_or_default();
        let named = |(gpu, share): (usize, f64)| (self.capacity.gpus[gpu].clone(), share);
        self.hold(id, need, chosen.into_iter().map(named).collect())
    }

    /// Notes what a replica holds that was started by another controller: the GPUs that it was given.
    pub(crate) fn restore(&mut self, id: ReplicaId, need: Need, gpus: &[String]) {
        let share = need.num_gpus.min(1.0);
        self.hold(id, need, gpus.iter().map(|gpu| (gpu.clone(), share)).collect());
    }

    fn hold(&mut self, id: ReplicaId, need: Need, gpus: Vec<(String, f64)>) -> Vec<String> {
        for (gpu, share) in &gpus {
            if let Some(used) = self.used(gpu) {
                *used += share;
            }
        }
        self.memory_bytes += need.memory_bytes;
        self.num_cpus += need.num_cpus;
        for (name, amount) in &need.custom {
            *self.custom.entry(name.clone()).or_default() += amount;
        }
        let names = gpus.iter().map(|(gpu, _)| gpu.clone()).collect();
        self.held.insert(id, Held { need, gpus });
        names
    }

    /// Gives back what a replica held.
    pub(crate) fn release(&mut self, id: &ReplicaId) {
        let Some(Held { need, gpus }) = self.held.remove(id) else { return };
        for (gpu, share) in gpus {
            if let Some(used) = self.used(&gpu) {
                *used = (*used - share).max(0.0);
            }
        }
        self.memory_bytes = self.memory_bytes.saturating_sub(need.memory_bytes);
        self.num_cpus = (self.num_cpus - need.num_cpus).max(0.0);
        for (name, amount) in need.custom {
            if let Some(used) = self.custom.get_mut(&name) {
                *used = (*used - amount).max(0.0);
            }
        }
    }

    /// Bytes that a replica holds.
    pub(crate) fn memory_of(&self, id: &ReplicaId) -> u64 {
        self.held.get(id).map_or(0, |held| held.need.memory_bytes)
    }

    /// What is used of a GPU; none where the machine has it no more.
    fn used(&mut self, gpu: &str) -> Option<&mut f64> {
        let index = self.capacity.gpus.iter().position(|name| name == gpu)?;
        self.gpus.get_mut(index)
    }
}

/// A fraction goes to the fullest GPU that has room, whole ones to empty GPUs.
fn choose_gpus(used: &[f64], wanted: f64) -> Option<Vec<(usize, f64)>> {
    if wanted <= ROUNDING {
        return Some(Vec::new());
    }
    let indices = 0..used.len();
    if wanted < 1.0 {
        let has_room = |gpu: &usize| used[*gpu] + wanted <= 1.0 + ROUNDING;
        let fullest = indices.filter(has_room).max_by(|a, b| used[*a].total_cmp(&used[*b]));
        return fullest.map(|gpu| vec![(gpu, wanted)]);
    }
    let empty = indices.filter(|gpu| used[*gpu] <= ROUNDING);
    let chosen: Vec<(usize, f64)> =
        empty.take(wanted.ceil() as usize).map(|gpu| (gpu, 1.0)).collect();
    (chosen.len() as f64 >= wanted).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> ReplicaId {
        ReplicaId::new(format!("r{n}"))
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.set_capacity(Capacity {
            memory_bytes: Some(8 << 30),
            num_cpus: Some(2.0),
            gpus: vec!["0".to_owned(), "GPU-7".to_owned()],
            custom: [("slots".to_owned(), 1.0)].into(),
        });
        ledger
    }

    #[test]
    fn what_does_not_fit_is_told_with_the_arithmetic() {
        let mut ledger = ledger();
        let need = Need { memory_bytes: 5 << 30, ..Need::default() };
        assert_eq!(ledger.shortage(&need, 1), None);
        ledger.take(id(0), need.clone());
        let shortage = ledger.shortage(&need, 1).unwrap();
        let told = "needs 5.00 GiB of memory, 3.00 of 8.00 GiB are free";
        assert_eq!((shortage.to_string().as_str(), shortage.is_final()), (told, false));
        let more = Need { memory_bytes: 9 << 30, ..Need::default() };
        assert!(ledger.shortage(&more, 1).unwrap().is_final());
        ledger.release(&id(0));
        assert_eq!(ledger.shortage(&need, 1), None);
        let slots = Need { custom: [("slots".to_owned(), 2.0)].into(), ..Need::default() };
        assert_eq!(
            ledger.shortage(&slots, 1).unwrap().to_string(),
            "needs 2 slots, 1 of 1 are free"
        );
        let cpus = Need { num_cpus: 1.5, ..Need::default() };
        ledger.take(id(1), cpus.clone());
        assert_eq!(ledger.shortage(&cpus, 1).unwrap().what, "CPUs");
    }

    #[test]
    fn fractions_of_gpus_share_and_whole_ones_do_not() {
        let mut ledger = ledger();
        let need = |num_gpus| Need { num_gpus, ..Need::default() };
        assert_eq!(ledger.take(id(0), need(0.5)), ["GPU-7"]);
        assert_eq!(ledger.take(id(1), need(0.25)), ["GPU-7"]);
        assert_eq!(ledger.take(id(2), need(1.0)), ["0"]);
        assert_eq!(ledger.take(id(3), need(0.25)), ["GPU-7"]);
        let shortage = ledger.shortage(&need(0.5), 1).unwrap();
        assert_eq!((shortage.what.as_str(), shortage.is_final()), ("GPUs", false));
        ledger.release(&id(2));
        assert_eq!(ledger.take(id(4), need(0.5)), ["0"]);
        assert!(ledger.shortage(&need(3.0), 1).unwrap().is_final());
    }

    #[test]
    fn several_fit_where_all_of_them_do() {
        let mut ledger = ledger();
        let told = |ledger: &Ledger, need: &Need, number| {
            let shortage = ledger.shortage(need, number);
            shortage.map(|shortage| (shortage.to_string(), shortage.is_final()))
        };
        let memory = Need { memory_bytes: 3 << 30, ..Need::default() };
        assert_eq!(told(&ledger, &memory, 2), None);
        let needs = "needs 9.00 GiB of memory, 8.00 of 8.00 GiB are free".to_owned();
        assert_eq!(told(&ledger, &memory, 3), Some((needs, true)));
        let cpus = Need { num_cpus: 0.5, ..Need::default() };
        assert_eq!(told(&ledger, &cpus, 4), None);
        assert_eq!(told(&ledger, &cpus, 5), Some(("needs 2.5 CPUs, 2 of 2 are free".into(), true)));
        // Of two GPUs each takes one share of 0.6, or two of 0.5.
        let gpus = |num_gpus| Need { num_gpus, ..Need::default() };
        for (share, most) in [(0.6, 2), (0.5, 4), (0.25, 8), (1.0, 2), (2.0, 1), (0.0, 100)] {
            assert_eq!(told(&ledger, &gpus(share), most), None, "{share}");
            let more = told(&ledger, &gpus(share), most + 1);
            assert_eq!(more.map(|(_, is_final)| is_final), (share > 0.0).then_some(true));
        }
        ledger.take(id(0), gpus(0.5));
        assert_eq!(told(&ledger, &gpus(0.5), 3), None);
        let (needs, is_final) = told(&ledger, &gpus(0.5), 4).unwrap();
        assert_eq!((needs.as_str(), is_final), ("needs 2 GPUs, 1.5 of 2 are free", false));
        assert_eq!(ledger.memory(&memory, 2).needed, (6_u64 << 30) as f64);
    }

    #[test]
    fn what_a_replica_was_given_by_a_controller_before_is_its_own() {
        let mut ledger = ledger();
        let need = |num_gpus| Need { num_gpus, ..Need::default() };
        ledger.restore(id(0), need(0.75), &["0".to_owned()]);
        ledger.restore(id(1), need(1.0), &["gone".to_owned()]);
        assert_eq!(ledger.take(id(2), need(0.25)), ["0"]);
        assert_eq!(ledger.take(id(3), need(1.0)), ["GPU-7"]);
        // Fewer GPUs than before: what is held of those that stay is known.
        ledger.set_capacity(Capacity { gpus: vec!["0".to_owned()], ..Capacity::default() });
        let told = "needs 0.25 GPUs, 0 of 1 are free";
        assert_eq!(ledger.shortage(&need(0.25), 1).unwrap().to_string(), told);
        (0..4).for_each(|n| ledger.release(&id(n)));
        assert_eq!(ledger.shortage(&need(1.0), 1), None);
        let none = Ledger::default().shortage(&need(1.0), 1).unwrap().to_string();
        assert_eq!(none, "needs 1 GPUs, 0 of 0 are free");
    }
}
