.DEFAULT_GOAL := help
SEEDS ?= 10000
.PHONY: help demo demo-failover test kill-loop lint sim clean-demo

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1#\2/p' Makefile | column -t -s '#'

demo: ## Start a cluster of three nodes on this machine; Ctrl-C removes it (DEMO_EXIT=1: at once)
	@scripts/demo

demo-failover: ## The same, then kill the primary with SIGKILL and measure
	@scripts/demo --failover

clean-demo: ## Kill and remove what a demo left behind
	@scripts/demo --clean

test: ## All checks: format, lints, tests with real servers, simulator
	@scripts/test

kill-loop: ## Kill the agent a hundred times at random moments (SEED=n, POINTS=n)
	KILL_LOOP_SEED=$(or $(SEED),1) KILL_LOOP_POINTS=$(or $(POINTS),100) KILL_LOOP_SECONDS=$(or $(SECONDS),3600) \
		cargo test -p patroni --test kill_loop -- --nocapture

chaos: ## Random faults against a real cluster, as root (CHAOS_SECONDS=600 MODE=async|sync|quorum SEED=n UPSTREAM=virtualenv)
	@scripts/chaos

sim: ## The simulator alone, over SEEDS=10000 seeds from FROM=1 on
	cargo run --release -p xtask -- sim --seeds $(SEEDS) --from $(or $(FROM),1)

lint: ## Format check and lints only
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
