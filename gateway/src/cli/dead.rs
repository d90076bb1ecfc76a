//! `bugler dead`: list dead letters, look at one, send them again, give them up.

use crate::cli::access::{Access, Wanted, id, rate};
use crate::cli::amend::{AT_ONCE, Amended};
use crate::cli::outcomes::lines;
use crate::cli::{CliError, Exit, runtime};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum Dead {
    /// Dead letters, newest first.
    List(List),
    /// One dead letter.
    Show(Show),
    /// Send dead letters again.
    Replay(Replay),
    /// Give dead letters up: their deliveries stay dead.
    Discard(Discard),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    wanted: Wanted,
    /// Lines to show, at most 200.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Go on behind a page: its `next`.
    #[arg(long)]
    after: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The delivery's id.
    delivery: String,
    #[command(flatten)]
    access: Access,
}

/// Which dead letters are meant: these, all, or those a filter finds.
#[derive(Debug, Args)]
struct Selection {
    /// Ids of deliveries.
    #[arg(conflicts_with_all = ["all", "target", "event", "cause", "from", "to", "limit"])]
    deliveries: Vec<String>,
    /// Every dead letter of the organization.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    wanted: Wanted,
    /// Stop after so many.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Change nothing, say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    selection: Selection,
    /// Spread them: `50/s`. All at once without it.
    #[arg(long, value_parser = rate)]
    rate: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Discard {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    selection: Selection,
}

impl Dead {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let runtime = runtime()?;
        match self {
            Self::List(List { access, wanted, limit, after }) => {
                let mut parameters = wanted.parameters();
                parameters.push(("limit", Some(limit.to_string())));
                parameters.push(("after", after));
                let page = runtime.block_on(access.get("/bugler/v1/dead-letters", &parameters))?;
                access.print(out, &page, |page| lines(page, "deadLetters"))?;
                Ok(Exit::Done)
            }
            Self::Show(Show { delivery, access }) => {
                let path = format!("/bugler/v1/dead-letters/{}", id(&delivery)?);
                let letter = runtime.block_on(access.get(&path, &[]))?;
                access.print(out, &letter, |letter| format!("{letter:#}\n"))?;
                Ok(Exit::Done)
            }
            Self::Replay(Replay { access, selection, rate }) => {
                let path = String::from("/bugler/v1/dead-letters/replay");
                let how = (rate, selection.dry_run);
                let mut amended = Amended::new(&access, path, "replayed", how);
                let asked = runtime.block_on(amend(&mut amended, &selection));
                amended.tell(asked, out)
            }
            Self::Discard(Discard { access, selection }) => {
                let path = String::from("/bugler/v1/dead-letters/discard");
                let how = (None, selection.dry_run);
                let mut amended = Amended::new(&access, path, "discarded", how);
                let asked = runtime.block_on(amend(&mut amended, &selection));
                amended.tell(asked, out)
            }
        }
    }
}

/// Asks until nothing is left of the selection; answers how it ended.
async fn amend(amended: &mut Amended<'_>, selection: &Selection) -> Result<(), CliError> {
    let Selection { deliveries, all, wanted, limit, .. } = selection;
    if !deliveries.is_empty() {
        for some in deliveries.chunks(AT_ONCE) {
            amended.ask(json!({ "deliveries": some }), None).await?;
        }
        return Ok(());
    }
    if wanted.is_none() && !all {
        let text = "name deliveries, or a filter as --target, --event or --since, or --all";
        return Err(CliError::new(Exit::Failed, text));
    }
    amended.ask(json!({ "filter": wanted.filter() }), Some(limit.unwrap_or(u64::MAX))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        dead: Dead,
    }

    fn parse(arguments: &[&str]) -> Result<Line, clap::error::ErrorKind> {
        let all = ["bugler", "replay", "--token", "t"].into_iter().chain(arguments.iter().copied());
        Line::try_parse_from(all).map_err(|error| error.kind())
    }

    #[test]
    fn ids_go_with_no_filter_and_no_limit() {
        assert!(parse(&["a", "b", "--dry-run", "--rate", "5/s"]).is_ok());
        assert!(parse(&["--target", "webhook", "--since", "2h", "--limit", "1"]).is_ok());
        let others = [
            ["--target", "webhook"],
            ["--event", "e"],
            ["--cause", "c"],
            ["--from", "2h"],
            ["--since", "2h"],
            ["--to", "2h"],
            ["--limit", "5"],
        ];
        for other in others {
            let refused = parse(&[&["a"][..], &other].concat()).unwrap_err();
            assert_eq!(refused, clap::error::ErrorKind::ArgumentConflict, "{other:?}");
        }
        let refused = parse(&["a", "--all"]).unwrap_err();
        assert_eq!(refused, clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        let refused = parse(&["--all", "--limit", "0"]).unwrap_err();
        assert_eq!(refused, clap::error::ErrorKind::ValueValidation);
    }
}
