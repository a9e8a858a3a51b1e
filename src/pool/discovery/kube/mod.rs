//! wip
mod api;
mod mirror;
mod pods;
