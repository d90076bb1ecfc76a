//! The Lua scripts of the records. Each is one atomic step on the keys of one shard.

use crate::redis::Script;

macro_rules! script {
    ($flags:literal $(, $file:literal)*) => {
        concat!("#!lua", $flags, "\n", "local RECORDS = KEYS[1]\n" $(, include_str!($file))*)
    };
}

/// Commits or prepares changes, with the commit script of the journal as a function inside: refused
/// as a whole while Redis is out of memory. Of its two keys the second is never there, so that it does
/// not run while its slot is on the move, as those that are `wide`.
pub(super) static COMMIT: Script = Script::new(concat!(
    "#!lua\n",
    include_str!("../../journal/redis/lua/shared.lua"),
    include_str!("../../journal/redis/lua/retire.lua"),
    "local function journal(ARGV)\n",
    include_str!("../../journal/redis/lua/commit.lua"),
    "end\nlocal RECORDS = KEYS[2]\n",
    include_str!("lua/apply.lua"),
    include_str!("lua/commit.lua"),
));
pub(super) static FINISH: Script =
    Script::new(script!(" flags=allow-oom", "lua/apply.lua", "lua/finish.lua")).wide();
pub(super) static RESOLVE: Script =
    Script::new(script!(" flags=allow-oom", "lua/resolve.lua")).wide();
pub(super) static DONE: Script = Script::new(script!(" flags=allow-oom", "lua/done.lua")).wide();
pub(super) static RESERVE: Script =
    Script::new(script!(" flags=allow-oom", "lua/reserve.lua")).wide();
pub(super) static READ: Script =
    Script::reading(script!(" flags=no-writes", "lua/read.lua")).wide();
/// Puts rows that another store had.
pub(super) static LOAD: Script = Script::new(script!("", "lua/apply.lua", "lua/load.lua")).wide();
