//! Who is in the pool.

pub mod file;
pub mod kube;
