//! The driver over many seeds: as it is, and with each deliberate defect.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sim::mutations::Mutation;
use sim::pg::sync::SyncOptions;
use sim::{Options, run};

/// Seeds that a defect may survive. The rarest needs packets to be lost at the very moment of a leader race.
const SURVIVES_MAX: u64 = 300;
/// Defects that the driver is built to survive: it looks whether a rewind helped, and whether a server that is said to
/// be shut down is.
const ABSORBED: [Mutation; 2] = [Mutation::RewindDoesNothing, Mutation::ShutdownReportedEarly];
/// Seeds that the driver runs in the tests; `xtask sim` runs any number.
const CLEAN_SEEDS: u64 = 24;

/// Runs `work` on every index below `count`, on as many threads as there are processors, results in order.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new((0..count).map(|_| None).collect::<Vec<Option<T>>>());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = work(index);
                    results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

#[test]
fn the_driver_keeps_its_promises() {
    let failures: Vec<String> = in_parallel(CLEAN_SEEDS as usize, |index| {
        let seed = index as u64 + 1;
        let report = run(seed, Options::of_seed(seed));
        report.violations.first().map(|violation| format!("seed {seed}: {violation:?}"))
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(failures.is_empty(), "look at `xtask sim --seed N --trace`:\n{}", failures.join("\n"));
}

/// What a seed varies, with synchronous replication where the defect is one of it, and without elsewhere: a standby that
/// confirms every commit hides much.
fn options_for(mutation: Mutation, seed: u64) -> Options {
    let options = Options::of_seed(seed);
    let sync = match mutation.is_synchronous() {
        true => options.sync.switched_on(seed),
        false => SyncOptions::default(),
    };
    Options { sync, ..options }
}

/// The first seed whose run a defect spoils and whose run is clean without it, and the checker that said so.
fn caught_by(mutation: Mutation) -> Option<(u64, &'static str)> {
    (1..=SURVIVES_MAX).find_map(|seed| {
        let options = options_for(mutation, seed);
        let spoiled = run(seed, Options { mutation: Some(mutation), ..options.clone() });
        let checker = spoiled.violations.first()?.checker;
        run(seed, options).violations.is_empty().then_some((seed, checker))
    })
}

#[test]
fn every_defect_is_caught() {
    let mutations: Vec<Mutation> = Mutation::ALL.into_iter().filter(|mutation| !ABSORBED.contains(mutation)).collect();
    let found = in_parallel(mutations.len(), |index| caught_by(mutations[index]));
    let mut survivors = Vec::new();
    for (mutation, caught) in mutations.iter().zip(&found) {
        match caught {
            Some((seed, checker)) => println!("{mutation:?}: seed {seed}, {checker}"),
            None => survivors.push(format!("{mutation:?}")),
        }
    }
    println!("{} of {} caught", found.len() - survivors.len(), found.len());
    assert!(survivors.is_empty(), "survived {SURVIVES_MAX} seeds: {survivors:?}");
}

#[test]
fn defects_that_are_absorbed() {
    for mutation in ABSORBED {
        for seed in 1..=6 {
            let report = run(seed, Options { mutation: Some(mutation), ..Options::of_seed(seed) });
            assert_eq!(report.violations, [], "{mutation:?}, seed {seed}");
        }
    }
}
