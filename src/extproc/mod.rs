//! extproc
