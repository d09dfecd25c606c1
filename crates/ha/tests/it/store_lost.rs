//! The store cannot be reached.

use ha::view::{LeaseView, StoreView};
use model::pg::ControlState;
use serde_json::json;
use std::time::Duration;

use crate::scene::*;

fn outage(me: &str) -> Scene {
    let mut scene = Scene::of(me, "a");
    scene.view.store = StoreView::Unreachable("no endpoint answers".to_owned());
    scene
}

#[test]
fn leader_goes_on_while_the_lease_is_good() {
    let played = outage("a").play();
    played.expect("store-lost-leading", &[]);
    assert!(played.verdict.reason.contains("no endpoint answers"), "{}", played.verdict.reason);
}

#[test]
fn leader_stops_before_the_lease_ends() {
    let mut scene = outage("a");
    scene.view.lease = LeaseView::Held(NOW.plus(Duration::from_secs(6)));
    scene.play().expect("store-lost-demote", &["stop Fast Demote"]);
}

#[test]
fn leader_stops_at_once_when_the_lease_has_ended() {
    for lease in [LeaseView::Lost, LeaseView::None, LeaseView::Held(NOW)] {
        let mut scene = outage("a");
        scene.view.lease = lease;
        scene.play().expect("follow-demote", &["stop Immediate Demote"]);
    }
}

#[test]
fn standby_changes_nothing() {
    outage("b").play().expect("store-lost", &[]);
}

#[test]
fn stopped_server_comes_back_read_only() {
    let scene = outage("a").pg_down(ControlState::ShutDown);
    scene.play().expect("store-lost-restart", &["Disarm", "start standby of nobody"]);
    let scene = outage("b").pg_down(ControlState::ShutDownInRecovery);
    scene.play().expect("store-lost-restart", &["Disarm", "start standby of 127.0.0.1:5432"]);
}

/// Simulator: a machine came up with the disk of another cluster while the store was away.
#[test]
fn unknown_data_directory_is_not_started_before_the_store_can_tell() {
    let mut scene = outage("b").pg_down(ControlState::ShutDownInRecovery);
    scene.memory.healthy_cluster = None;
    let played = scene.play();
    played.expect("store-lost", &[]);
    assert!(played.verdict.reason.contains("has not seen the cluster yet"), "{}", played.verdict.reason);

    let mut scene = outage("b").pg_down(ControlState::ShutDownInRecovery);
    let control = scene.view.pg.control.as_mut().expect("a control file");
    control.system_id = "6999999999999999999".to_owned();
    scene.play().expect("store-lost", &[]);
}

#[test]
fn paused_means_hands_off() {
    let mut scene = outage("a");
    scene.view.lease = LeaseView::Lost;
    scene.view.settings = settings(json!({"pause": true}));
    scene.play().expect("store-lost", &[]);
}
