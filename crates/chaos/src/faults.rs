//! Faults done to a running cluster, and undone.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::checker::Rogue;
use crate::clients::Clients;
use crate::cluster::{Book, Cluster, NODES, STORES};
use crate::net::{Direction, Host};
use crate::plan::{Fault, From, Step, Target};

const LOST_PERCENT: u32 = 20;
const SLOW_KBIT: u32 = 512;
const ROGUE_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Does it, lets it last, and undoes it. `number` is unique in the run.
///
/// # Errors
/// What could not be done; nothing is left behind then but what the next fault and the end of the run undo.
pub async fn strike(cluster: &mut Cluster, clients: &Clients, number: u32, step: &Step) -> Result<()> {
    let book = cluster.book();
    let primary = book.primary().await.unwrap_or(0);
    let node = |target| match target {
        Target::Primary => primary,
        Target::Standby(index) => (primary + 1 + index) % NODES,
    };
    let lasts = step.lasts;
    match step.fault {
        Fault::KillAgent(target) => {
            cluster.signal_agent(node(target), Signal::KILL)?;
            sleep(lasts).await;
            cluster.start_agent(node(target))
        }
        Fault::KillPostmaster(target) => cluster.kill_postmaster(node(target)),
        Fault::KillHost(target) => {
            cluster.net.signal(Host::Db(node(target)), Signal::KILL);
            sleep(lasts).await;
            cluster.start_agent(node(target))
        }
        Fault::FreezeAgent(target) => {
            cluster.signal_agent(node(target), Signal::STOP)?;
            sleep(lasts).await;
            cluster.signal_agent(node(target), Signal::CONT)
        }
        Fault::FreezeHost(target) => {
            freeze(cluster, &[Host::Db(node(target))], lasts).await;
            Ok(())
        }
        Fault::KillStore(index) => {
            cluster.net.signal(Host::Store(index), Signal::KILL);
            sleep(lasts).await;
            cluster.start_store(index)
        }
        Fault::StoreLoss => {
            freeze(cluster, &(0..STORES).map(Host::Store).collect::<Vec<_>>(), lasts).await;
            Ok(())
        }
        Fault::Partition(target, from, direction) => {
            partition(cluster, number, node(target), from, direction, lasts).await
        }
        Fault::LosePackets(target) => {
            cluster.net.lose(number, Host::Db(node(target)), LOST_PERCENT)?;
            sleep(lasts).await;
            cluster.net.heal(number)
        }
        Fault::SlowLink(target) => {
            cluster.net.slow(Host::Db(node(target)), SLOW_KBIT)?;
            sleep(lasts).await;
            cluster.net.fast(Host::Db(node(target)))
        }
        Fault::FullDisk => {
            let disk = cluster.nodes[primary].disk.clone();
            disk.fill()?;
            sleep(lasts).await;
            disk.free()
        }
        Fault::Promote(standby) => promote(cluster, clients, &book, (primary + 1 + standby) % NODES).await,
        Fault::StepCalendar(target, seconds) => {
            cluster.step_calendar(node(target), seconds)?;
            sleep(lasts).await;
            cluster.step_calendar(node(target), 0)
        }
        Fault::Switchover => {
            let body = json!({"leader": format!("db{primary}")});
            book.post(primary, "/switchover", &body).await.map(drop)
        }
        Fault::Restart(target) => book.post(node(target), "/restart", &json!({})).await.map(drop),
    }
}

async fn freeze(cluster: &Cluster, hosts: &[Host], lasts: Duration) {
    // The same processes are woken that were stopped: others may have been started by hand meanwhile.
    for host in hosts {
        cluster.net.signal(*host, Signal::STOP);
    }
    sleep(lasts).await;
    for host in hosts {
        cluster.net.signal(*host, Signal::CONT);
    }
}

async fn partition(
    cluster: &mut Cluster,
    number: u32,
    node: usize,
    from: From,
    direction: Direction,
    lasts: Duration,
) -> Result<()> {
    let stores = (0..STORES).map(Host::Store).filter(|_| from != From::Peers);
    let peers = (0..NODES).filter(|other| *other != node).map(Host::Db).filter(|_| from != From::Store);
    let others: Vec<Host> = stores.chain(peers).collect();
    cluster.net.cut(number, Host::Db(node), &others, direction)?;
    sleep(lasts).await;
    cluster.net.heal(number)
}

/// Promotes a standby and watches until it takes no more writes: by then its agent has noticed.
async fn promote(cluster: &Cluster, clients: &Clients, book: &Book, node: usize) -> Result<()> {
    let from = clients.now();
    cluster.promote(node)?;
    let started = Instant::now();
    let mut writable_at = None;
    while started.elapsed() < ROGUE_MAX {
        match standby(book, node).await {
            Some(false) => writable_at = Some(clients.now()),
            _ if writable_at.is_some() => break,
            // Not promoted yet, or not any more.
            _ if started.elapsed() > Duration::from_secs(10) => break,
            _ => {}
        }
        sleep(POLL).await;
    }
    clients.note_rogue(Rogue { node, from, until: clients.now() });
    let lawful = book.is_primary(node).await;
    println!(
        "          db{node} was writable for {:.2} s{}",
        writable_at.unwrap_or(from).saturating_sub(from).as_secs_f64(),
        if lawful { ", and is the primary now" } else { "" }
    );
    Ok(())
}

async fn standby(book: &Book, node: usize) -> Option<bool> {
    let client = book.connect(node).await.ok()?;
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.ok()?;
    Some(row.get(0))
}

/// Undoes whatever may still be in force: everything runs, nothing is cut, slow, full or frozen.
pub fn undo_all(cluster: &mut Cluster, faults: u32) -> Result<()> {
    for number in 0..=faults {
        cluster.net.heal(number)?;
    }
    for index in 0..STORES {
        cluster.net.signal(Host::Store(index), Signal::CONT);
        if cluster.net.processes(Host::Store(index)).is_empty() {
            cluster.start_store(index)?;
        }
    }
    for index in 0..NODES {
        let _ = cluster.net.fast(Host::Db(index));
        let _ = cluster.nodes[index].disk.free();
        cluster.net.signal(Host::Db(index), Signal::CONT);
        cluster.start_agent(index).with_context(|| format!("start the agent of db{index}"))?;
    }
    Ok(())
}
