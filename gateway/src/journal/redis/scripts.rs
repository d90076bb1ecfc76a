//! The Lua scripts of the journal. Each is one atomic step on the keys of one shard.

use crate::redis::Script;

macro_rules! script {
    ($flags:literal $(, $file:literal)*) => {
        concat!("#!lua", $flags, "\n", include_str!("lua/shared.lua") $(, include_str!($file))*)
    };
}

/// Adds work: refused as a whole while Redis is out of memory.
pub(super) static COMMIT: Script =
    Script::new(script!("", "lua/retire.lua", "lua/commit.lua")).wide();
/// Ends work, which frees memory.
pub(super) static SETTLE: Script =
    Script::new(script!(" flags=allow-oom", "lua/retire.lua", "lua/commit.lua")).wide();
pub(super) static ADOPT: Script = Script::new(script!(" flags=allow-oom", "lua/adopt.lua")).wide();
pub(super) static SWEEP: Script =
    Script::reading(script!(" flags=no-writes", "lua/sweep.lua")).wide();
pub(super) static RECORDS: Script =
    Script::reading(script!(" flags=no-writes", "lua/records.lua")).wide();
pub(super) static KNOWN: Script =
    Script::reading(script!(" flags=no-writes", "lua/known.lua")).wide();
pub(super) static SUMMED: Script =
    Script::reading(script!(" flags=no-writes", "lua/summed.lua")).wide();
pub(super) static DUE: Script = Script::new(script!(" flags=allow-oom", "lua/due.lua")).wide();
pub(super) static TAKE: Script = Script::new(script!(" flags=allow-oom", "lua/take.lua")).wide();
pub(super) static HURRY: Script = Script::new(script!(" flags=allow-oom", "lua/hurry.lua")).wide();
pub(super) static TIDY: Script =
    Script::new(script!(" flags=allow-oom", "lua/retire.lua", "lua/tidy.lua")).wide();
