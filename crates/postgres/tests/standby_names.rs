//! `synchronous_standby_names` on a real server: in force when it is said to be, kept, and given back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{PATIENCE, parse, run};
use model::Role;
use postgres::{Postgres, StartAs, StopMode, TaskHandle};
use serde_json::json;

#[test]
fn set_kept_through_restarts_and_given_back() {
    run("set_kept_through_restarts_and_given_back", |cluster| async move {
        let node = cluster.node_with("a", json!({"parameters": {"synchronous_standby_names": "*"}}), json!({}));
        let task = TaskHandle::detached();
        node.pg.initdb(&task).await.unwrap();
        node.pg.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        let config = |mode: &str| {
            let dynamic = json!({"synchronous_mode": mode});
            parse(&node.section, &node.bootstrap, "a").with_dynamic(dynamic.as_object().unwrap()).unwrap()
        };
        let shown = || async { node.sql("SHOW synchronous_standby_names").await.unwrap() };
        // Nobody manages it: the simple form passes through.
        node.pg.post_bootstrap(&task).await.unwrap();
        node.pg.apply_config(config("off"), Role::Primary).await.unwrap();
        assert_eq!(shown().await, "*");
        // Managed: what is there stays until it is set, and what is set stays whatever else is written.
        node.pg.apply_config(config("on"), Role::Primary).await.unwrap();
        assert_eq!(shown().await, "*");
        for names in ["b", "ANY 1 (b,\"c-1\")", "", "2 (b,c)"] {
            node.pg.set_standby_names(Some(names)).await.unwrap();
            assert_eq!(shown().await, names);
        }
        // Somebody else's ALTER SYSTEM does not win.
        node.sql("ALTER SYSTEM SET synchronous_standby_names = 'x'").await;
        node.pg.reload();
        node.pg.set_standby_names(Some("b")).await.unwrap();
        assert_eq!(shown().await, "b");
        // Another agent, as after its restart, in the same mode.
        let next = Postgres::new(config("on"));
        next.apply_config(config("on"), Role::Primary).await.unwrap();
        next.stop(StopMode::Fast, &task).await.unwrap();
        next.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        assert_eq!(shown().await, "b");
        // The mode is turned off: only when it is said so the user's value returns.
        next.apply_config(config("off"), Role::Primary).await.unwrap();
        assert_eq!(shown().await, "b");
        next.set_standby_names(None).await.unwrap();
        next.stop(StopMode::Fast, &task).await.unwrap();
        next.start(StartAs::Primary, PATIENCE, &task).await.unwrap();
        assert_eq!(shown().await, "*");
        next.stop(StopMode::Immediate, &task).await.unwrap();
    });
}
