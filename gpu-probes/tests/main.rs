//! Black-box tests of what a node knows of its GPUs. One binary, one module a part: [`agent`] holds a whole agent against a
//! source that follows a script, and a kubelet behind a real socket.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

mod agent;
