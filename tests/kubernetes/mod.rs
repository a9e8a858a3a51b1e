//! A pool that lives in Kubernetes: pods come and go, the API server fails, replicas elect a leader.
//!
//! The cluster is the double of `src/sim/kube`; what that does not prove is said there.

mod agents;
mod faults;
mod leader;
mod objects;
mod pool;
mod rights;
