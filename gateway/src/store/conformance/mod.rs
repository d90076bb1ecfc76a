//! What every store must do, as one suite that each backend runs.
//!
//! A backend hands over a [`Place`] that starts empty; the suite opens it, writes, reads, and
//! opens it again. Checks panic with the broken promise; store failures come back as errors.

mod audience;
mod inbox;
mod logged;
mod records;
mod refused;
pub(crate) mod samples;
mod search;

use std::error::Error;
use std::sync::Arc;

use super::{Change, Store, StoreError};
use crate::BoxFuture;

/// The result of one check.
type Checked = Result<(), Box<dyn Error + Send + Sync>>;

/// Where a store keeps its records: `open` finds what an earlier, dropped store left.
pub trait Place: Send + Sync {
    /// Opens the store. The suite drops it before it opens the same place again.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>>;
}

/// Runs every check, each on its own place from `empty_place`.
///
/// # Errors
/// The first failure the store itself reported.
///
/// # Panics
/// When the store breaks a promise of the seam.
pub async fn run<P: Place>(empty_place: impl AsyncFn() -> P) -> Checked {
    let store = || async { empty_place().await.open().await };

    records::finds_organizations_and_users_by_every_name(&*store().await).await?;
    records::keeps_names_unique_and_frees_replaced_ones(&*store().await).await?;
    records::refuses_changes_that_name_missing_records(&*store().await).await?;
    records::makes_all_changes_of_an_apply_or_none(&*store().await).await?;
    records::never_stores_a_loop_of_parents(&*store().await).await?;
    records::answers_rising_versions_to_concurrent_applies(&store().await).await?;
    records::serves_no_value_older_than_the_last_answered_apply(&*store().await).await?;
    records::matches_subscriptions_by_event_and_organization(&*store().await).await?;
    records::keeps_everything_over_a_reopen(&empty_place().await).await?;

    audience::names_each_user_once_and_counts_the_unknown(&*store().await).await?;
    audience::pages_everybody_in_ascending_order(&*store().await).await?;
    audience::follows_users_and_devices_when_they_move(&*store().await).await?;
    audience::gives_a_claimed_token_to_one_device(&*store().await).await?;
    audience::unites_groups_of_one_solution(&*store().await).await?;
    audience::keeps_organizations_apart(&*store().await).await?;

    search::finds_users_by_text_in_every_order(&*store().await).await?;
    search::finds_users_among_many_while_they_change(&*store().await).await?;
    search::answers_searches_that_come_at_once(&store().await).await?;
    search::lists_users_by_id_page_by_page(&*store().await).await?;

    logged::logs_what_it_makes_and_nothing_it_refuses(&*store().await).await?;
    logged::makes_logged_changes_again_exactly_once(&empty_place().await).await?;
    logged::decides_expectations_with_the_changes(&store().await).await?;
    logged::chains_the_audit_trail_of_each_organization(&*store().await).await?;
    logged::forgets_what_ended_and_nothing_else(&*store().await).await?;
    logged::gives_out_ids_beyond_every_imported_one(&empty_place().await).await?;

    refused::makes_nothing_that_a_full_log_did_not_take(&*store().await).await?;
    refused::keeps_what_was_logged_beside_what_was_not(&empty_place().await).await?;
    refused::makes_nothing_more_after_a_log_that_failed(&empty_place().await).await?;

    inbox::moves_entries_as_their_deliveries_go(&*store().await).await?;
    inbox::pages_and_syncs_inboxes_over_a_reopen(&empty_place().await).await?;
    inbox::guards_entries_by_their_revision(&*store().await).await?;
    inbox::bounds_inboxes_and_what_it_remembers_of_them(&*store().await).await?;
    inbox::hides_notifications_once_and_not_for_ever(&*store().await).await?;
    Ok(())
}

fn refused_as(outcome: Result<super::Version, StoreError>, expected: &str) {
    match outcome {
        Err(error) => assert_eq!(error.to_string(), expected),
        Ok(_) => assert_eq!("accepted", expected),
    }
}

async fn apply(store: &dyn Store, changes: impl IntoIterator<Item = Change>) -> Checked {
    store.apply(changes.into_iter().collect()).await?;
    Ok(())
}
