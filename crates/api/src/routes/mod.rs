//! Which handler answers which request.

mod actions;
mod config;
mod failsafe;
mod health;
mod metrics;
mod status;

use crate::access::{self, Guard};
use crate::answer::Answer;
use crate::call::Call;

/// A row of the route table.
struct Route {
    method: &'static str,
    /// First segment of the path; what follows it does not matter.
    segment: &'static str,
    guard: Guard,
    action: Action,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Status,
    Cluster,
    History,
    Decisions,
    Metrics,
    Liveness,
    Readiness,
    GetConfig,
    PatchConfig,
    PutConfig,
    GetFailsafe,
    PostFailsafe,
    Reload,
    Sigterm,
    Restart,
    CancelRestart,
    Failover,
    Switchover,
    CancelSwitchover,
    Reinitialize,
}

const fn route(method: &'static str, segment: &'static str, guard: Guard, action: Action) -> Route {
    Route { method, segment, guard, action }
}

/// Everything but the health checks, which answer all other GET, HEAD and OPTIONS requests.
const ROUTES: [Route; 20] = [
    route("GET", "patroni", Guard::Open, Action::Status),
    route("GET", "cluster", Guard::Open, Action::Cluster),
    route("GET", "history", Guard::Open, Action::History),
    route("GET", "decisions", Guard::Open, Action::Decisions),
    route("GET", "metrics", Guard::Open, Action::Metrics),
    route("GET", "liveness", Guard::Open, Action::Liveness),
    route("GET", "readiness", Guard::Open, Action::Readiness),
    route("GET", "config", Guard::Open, Action::GetConfig),
    route("PATCH", "config", Guard::Full, Action::PatchConfig),
    route("PUT", "config", Guard::Full, Action::PutConfig),
    route("GET", "failsafe", Guard::Open, Action::GetFailsafe),
    route("POST", "failsafe", Guard::SkipMembers, Action::PostFailsafe),
    route("POST", "reload", Guard::Full, Action::Reload),
    route("POST", "sigterm", Guard::Full, Action::Sigterm),
    route("POST", "restart", Guard::Full, Action::Restart),
    route("DELETE", "restart", Guard::Full, Action::CancelRestart),
    route("POST", "failover", Guard::Full, Action::Failover),
    route("POST", "switchover", Guard::Full, Action::Switchover),
    route("DELETE", "switchover", Guard::Full, Action::CancelSwitchover),
    route("POST", "reinitialize", Guard::Full, Action::Reinitialize),
];

fn find(method: &str, path: &str) -> Option<&'static Route> {
    let segment = path.split('/').nth(1)?;
    ROUTES.iter().find(|route| route.method == method && route.segment == segment)
}

/// Answers one request.
pub(crate) async fn handle(method: &str, call: Call) -> Answer {
    match (find(method, &call.path), method) {
        (Some(route), _) => match access::check(route.guard, &call).await {
            Ok(()) => run(route.action, call).await.unwrap_or_else(|refusal| refusal),
            Err(refusal) => refusal,
        },
        (None, "GET") => health::get(&call),
        (None, "HEAD" | "OPTIONS") => health::bare(&call),
        (None, _) => {
            let shown: String = method.chars().take(40).collect();
            Answer::page(501, format!("Unsupported method ('{shown}')"))
        }
    }
}

async fn run(action: Action, call: Call) -> Result<Answer, Answer> {
    match action {
        Action::Status => Ok(status::node(&call).await),
        Action::Cluster => status::cluster(&call).await,
        Action::History => status::history(&call).await,
        Action::Decisions => Ok(Answer::json(200, &call.backend.decisions())),
        Action::Metrics => Ok(Answer::plain(200, metrics::text(&call.backend.fresh_status().await))),
        Action::Liveness => Ok(health::liveness(&call)),
        Action::Readiness => Ok(health::readiness(&call)),
        Action::GetConfig => config::get(&call).await,
        Action::PatchConfig => config::patch(call).await,
        Action::PutConfig => config::put(call).await,
        Action::GetFailsafe => failsafe::get(&call),
        Action::PostFailsafe => failsafe::post(call).await,
        Action::Reload => Ok(call.backend.reload().await.into()),
        // Upstream answers this and does nothing outside of its Windows tests; so do we.
        Action::Sigterm => Ok(Answer::text(202, "shutdown scheduled")),
        Action::Restart => actions::restart(call).await,
        Action::CancelRestart => Ok(call.backend.cancel_restart().await.into()),
        Action::Failover => actions::failover(call, false).await,
        Action::Switchover => actions::failover(call, true).await,
        Action::CancelSwitchover => Ok(call.backend.cancel_failover().await.into()),
        Action::Reinitialize => actions::reinitialize(call).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_segment_and_method_decide() {
        let action = |method, path| find(method, path).map(|route| route.action);
        assert_eq!(action("GET", "/patroni"), Some(Action::Status));
        assert_eq!(action("GET", "/patroni/x"), Some(Action::Status));
        assert_eq!(action("GET", "/config/"), Some(Action::GetConfig));
        assert_eq!(action("POST", "/switchover"), Some(Action::Switchover));
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/clusters"),
            ("HEAD", "/patroni"),
            ("POST", "/patroni"),
            ("DELETE", "/config"),
            ("DELETE", "/failover"),
            ("POST", "/citus"),
            ("GET", "*"),
        ] {
            assert_eq!(action(method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn everything_that_changes_something_is_guarded() {
        for route in &ROUTES {
            assert_eq!(route.guard == Guard::Open, route.method == "GET", "{} {}", route.method, route.segment);
        }
    }
}
