//! The rows of the fault matrix: what each needs, and how its fault strikes and heals.

use std::future::Future;
use std::pin::Pin;

use super::shape::{Order, Shape, Suite};
use super::stage::Stage;
use super::{Backend, Trouble};

mod cluster;
mod damage;
mod disk;
mod dns;
mod leaps;
mod load;
mod needs;
mod panics;
mod points;
mod power;
mod processes;
mod providers;
mod publication;
mod redis;
mod refusals;
mod rules;
mod samples;
mod settings;
mod throttled;
mod time;
mod wires;

pub(super) use needs::Need;

pub(super) type Injecting<'a> = Pin<Box<dyn Future<Output = Result<(), Trouble>> + Send + 'a>>;

/// One row of the matrix.
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) what: &'static str,
    pub(super) shape: fn(Shape) -> Shape,
    pub(super) inject: for<'a> fn(&'a mut Stage) -> Injecting<'a>,
    /// Why the row cannot run on one machine with this harness, if so.
    pub(super) lacks: Option<&'static str>,
    /// What is looked for before the row is played.
    pub(super) needs: &'static [Need],
}

impl Row {
    const fn new(
        id: &'static str,
        what: &'static str,
        shape: fn(Shape) -> Shape,
        inject: for<'a> fn(&'a mut Stage) -> Injecting<'a>,
    ) -> Self {
        Self { id, what, shape, inject, lacks: None, needs: &[] }
    }

    /// The row is skipped, with the reason, where one of these is missing.
    const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// A row that is named, and not run.
    const fn lacking(id: &'static str, what: &'static str, why: &'static str) -> Self {
        Self {
            id,
            what,
            shape: |shape| shape,
            inject: |_| Box::pin(async { Ok(()) }),
            lacks: Some(why),
            needs: &[],
        }
    }
}

/// The rows of a backend, in the order of the matrix.
pub(super) fn of(backend: Backend) -> Box<dyn Iterator<Item = &'static Row>> {
    match backend {
        Backend::Embedded => Box::new(all()),
        Backend::Redis => Box::new(redis::ROWS.iter()),
        Backend::Cluster => Box::new(cluster::ROWS.iter()),
    }
}

/// All rows of the embedded store, in the order of the matrix.
pub(super) fn all() -> impl Iterator<Item = &'static Row> {
    let tables: [&'static [Row]; 15] = [
        processes::ROWS,
        panics::ROWS,
        points::ROWS,
        disk::ROWS,
        power::ROWS,
        time::ROWS,
        damage::ROWS,
        providers::ROWS,
        throttled::ROWS,
        settings::ROWS,
        dns::ROWS,
        wires::ROWS,
        load::ROWS,
        rules::ROWS,
        publication::ROWS,
    ];
    let mut rows: Vec<&'static Row> = tables.into_iter().flatten().collect();
    rows.sort_by_key(|row| row.id.trim_start_matches('F').parse::<u32>().unwrap_or(u32::MAX));
    rows.into_iter()
}
