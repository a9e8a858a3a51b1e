//! A pool that lives in Kubernetes: pods come and go, the API server fails, replicas elect a leader.
//!
//! The cluster is the double of `src/sim/kube`; what that does not prove is said there. The cases of [`live`] and [`demo`]
//! run against a real API server where there is one.

mod access;
mod agents;
mod demo;
mod faults;
mod leader;
mod live;
mod objects;
mod pool;
mod pools;
mod rights;
