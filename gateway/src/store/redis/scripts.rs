//! The Lua scripts of the records. Each is one atomic step on the keys of one shard.

use crate::redis::Script;

macro_rules! script {
    ($flags:literal $(, $file:literal)*) => {
        concat!("#!lua", $flags, "\n" $(, include_str!($file))*)
    };
}

/// Commits or prepares changes: refused as a whole while Redis is out of memory.
pub(super) static COMMIT: Script =
    Script::new(script!("", "lua/no_journal.lua", "lua/apply.lua", "lua/commit.lua"));
pub(super) static FINISH: Script =
    Script::new(script!(" flags=allow-oom", "lua/apply.lua", "lua/finish.lua"));
pub(super) static RESOLVE: Script = Script::new(script!(" flags=allow-oom", "lua/resolve.lua"));
pub(super) static DONE: Script = Script::new(script!(" flags=allow-oom", "lua/done.lua"));
pub(super) static RESERVE: Script = Script::new(script!(" flags=allow-oom", "lua/reserve.lua"));
pub(super) static READ: Script = Script::reading(script!(" flags=no-writes", "lua/read.lua"));
