.DEFAULT_GOAL := help
.PHONY: help demo demo-failover test lint clean-demo

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

lint: ## Format check and lints only
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
