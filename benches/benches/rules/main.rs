//! Rules: what each shipped one costs, what all of them cost end to end, what a thousand organizations
//! with their own take, and that neither a swap nor somebody else's hostile rule is felt.
//!
//! `cargo bench -p bugler-benches --bench rules`, or with `-- case=cost`, `on`, `organizations`, `swap`
//! or `hostile` one of them; `case=cost batch=1` asks about one item at a time. It builds the rules of this workspace, and starts gateways, and for `swap` a
//! redis-server, of its own. Everything runs on the same cores, cases take turns and medians are
//! compared; it ends with status 1 if a goal is missed.

use bugler_benches::{Failed, Gateway};
use bugler_gateway::rules::check_component;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

mod cost;
mod guests;
mod hostile;
mod many;
mod on;
mod swap;
mod traffic;
mod world;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<ExitCode, Failed> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // A gateway starts its own program with these words to look at a component that is deployed.
    if args.iter().map(String::as_str).eq(["rule", "probe"]) {
        return probe();
    }
    let value = |name: &str| {
        let pairs = args.iter().filter_map(|arg| arg.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(config) = value("gateway") {
        return runtime.block_on(Gateway::run(PathBuf::from(config))).map(|()| ExitCode::SUCCESS);
    }
    let case = value("case");
    let is_wanted = |name: &str| case.as_deref().is_none_or(|case| case == name);
    let mut holds = true;
    if is_wanted("cost") {
        let batch = value("batch").map_or(Ok(cost::BATCH), |batch| batch.parse())?;
        holds &= runtime.block_on(cost::compare(batch))?;
    }
    if is_wanted("on") {
        holds &= runtime.block_on(on::compare())?;
    }
    if is_wanted("swap") {
        holds &= runtime.block_on(swap::compare())?;
    }
    if is_wanted("hostile") {
        holds &= runtime.block_on(hostile::compare())?;
    }
    if is_wanted("organizations") {
        let count = value("count").map_or(Ok(many::ORGANIZATIONS), |count| count.parse())?;
        holds &= runtime.block_on(many::compare(count))?;
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn probe() -> Result<ExitCode, Failed> {
    let mut component = Vec::new();
    std::io::stdin().read_to_end(&mut component)?;
    Ok(match check_component(&component) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "{error}")?;
            ExitCode::FAILURE
        }
    })
}

fn say(line: &str) -> Result<(), Failed> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
