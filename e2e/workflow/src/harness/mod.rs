//! Plays Actions Runner Controller on the test cluster: runner pods, their
//! jobs, and what must be gone after them.

pub mod absence;
pub mod audit;
pub mod cluster;
pub mod console;
pub mod extra;
pub mod grants;
pub mod paths;
pub mod policy;
pub mod private;
pub mod process;
pub mod runner;
pub mod terminal;
pub mod values;
pub mod verbs;
