//! README as its reader meets it: every command runs, every path exists, every table is true.

mod commands;
mod text;
