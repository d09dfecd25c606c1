//! Whole runs with the production driver.

use super::*;

fn short() -> Options {
    Options { safety_phase: Duration::from_secs(200), ..Options::of_seed(1) }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let (first, second, other) = (run(1, short()), run(1, short()), run(2, short()));
    let parting = first.history.iter().zip(&second.history).position(|(a, b)| a != b);
    if let Some(at) = parting {
        let from = at.saturating_sub(10);
        panic!("parted at\n{}\nor\n{}", first.history[from..=at].join("\n"), second.history[from..=at].join("\n"));
    }
    assert_eq!(first.digest, second.digest);
    assert_ne!(first.digest, other.digest);
}

#[test]
fn a_quiet_cluster_comes_up_and_switches_over() {
    let report = run(3, Options { safety_phase: Duration::ZERO, ..Options::default() });
    assert_eq!(report.violations, [], "{}", report.history.join("\n"));
    assert!(report.stats.acks > 0 && report.stats.lost == 0, "{:?}", report.stats);
}
