//! Golden requests and answers of every dialect, over HTTP/1.1 and HTTP/2.

mod bodies;
mod broken;
mod case;
mod pattern;
mod runner;
mod template;

macro_rules! golden {
    ($($name:ident = $file:literal;)*) => {
        const FILES: &[&str] = &[$($file),*];
        $(
            #[tokio::test]
            async fn $name() {
                runner::run(include_str!(concat!("cases/", $file))).await;
            }
        )*
    };
}

golden! {
    jigx_answers_the_customers_samples = "jigx/samples.toml";
    jigx_accepts_every_scope_and_form = "jigx/accepted.toml";
    jigx_accepts_each_field_at_its_limit = "jigx/limits.toml";
    jigx_refuses_bodies_outside_its_schema = "jigx/schema.toml";
    jigx_refuses_start_times_it_cannot_keep = "jigx/start_at.toml";
    jigx_refuses_callers_without_the_right = "jigx/callers.toml";
    jigx_lists_gets_and_cancels_notifications = "jigx/notifications.toml";
    jigx_shows_and_changes_a_members_inbox = "jigx/inbox.toml";
    jigx_keeps_members_of_solutions = "jigx/members.toml";
    jigx_answers_versions_and_preflights = "jigx/operations.toml";
    blynk_answers_the_customers_samples = "blynk/samples.toml";
    blynk_refuses_bodies_outside_its_schema = "blynk/schema.toml";
    blynk_refuses_callers_without_the_right = "blynk/callers.toml";
    zitadel_answers_what_is_there_from_the_start = "zitadel/reads.toml";
    zitadel_refuses_callers_without_the_right = "zitadel/callers.toml";
    zitadel_refuses_bodies_and_states_as_the_product_does = "zitadel/schema.toml";
    zitadel_refuses_paths_and_methods_that_are_none = "zitadel/routes.toml";
    blynk_makes_users_and_answers_for_those_there = "blynk/users.toml";
    blynk_refuses_fields_outside_their_rules = "blynk/fields.toml";
    blynk_invites_and_registers = "blynk/invitations.toml";
    blynk_lists_and_searches_its_tree = "blynk/lists.toml";
    blynk_changes_roles_by_its_rules = "blynk/roles.toml";
    blynk_transfers_by_its_rules = "blynk/transfer.toml";
    blynk_shows_and_makes_organizations = "blynk/organizations.toml";
    blynk_registers_devices = "blynk/devices.toml";
    blynk_refuses_methods_media_and_tokens = "blynk/methods.toml";
    applivery_answers_the_customers_samples = "applivery/samples.toml";
    applivery_makes_notifications_within_its_limits = "applivery/accepted.toml";
    applivery_refuses_bodies_outside_its_schema = "applivery/schema.toml";
    applivery_lists_and_shows = "applivery/list.toml";
    applivery_changes_what_may_be_changed = "applivery/update.toml";
    applivery_refuses_callers_without_the_right = "applivery/callers.toml";
    native_tells_what_became_of_deliveries = "native/outcomes.toml";
    native_takes_every_event = "native/events.toml";
    native_refuses_events_outside_its_schema = "native/events_refused.toml";
    native_accepts_every_audience = "native/accepted.toml";
    native_refuses_bodies_outside_its_schema = "native/schema.toml";
    native_refuses_callers_without_the_right = "native/callers.toml";
    native_keeps_keys_and_clients_to_those_who_may = "native/credentials.toml";
    native_opens_invitations_only_with_their_token = "native/invitations.toml";
    native_sets_passwords_for_those_who_may = "native/passwords.toml";
    native_shows_the_audit_trail_to_those_who_may = "native/audit.toml";
    oauth_gives_tokens_for_every_grant = "oauth/grants.toml";
    oauth_refuses_as_documented = "oauth/refusals.toml";
    oauth_makes_clients_in_the_documented_form = "oauth/clients.toml";
    every_dialect_refuses_what_is_not_json = "server/json.toml";
    every_dialect_refuses_bad_tokens = "server/tokens.toml";
    every_dialect_answers_unknown_routes_in_its_envelope = "server/routes.toml";
    every_dialect_refuses_other_media_types = "server/media.toml";
    every_answer_carries_a_harmless_request_id = "server/request_id.toml";
}

#[test]
fn no_case_file_is_forgotten() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/api/cases");
    let mut found = Vec::new();
    for dialect in std::fs::read_dir(root).expect("the case files are beside the tests") {
        let dialect = dialect.expect("an entry").path();
        for file in std::fs::read_dir(&dialect).expect("a directory for each dialect") {
            let name = file.expect("an entry").file_name();
            let dialect = dialect.file_name().expect("a name").to_string_lossy();
            found.push(format!("{dialect}/{}", name.to_string_lossy()));
        }
    }
    found.sort();
    let mut listed: Vec<_> = FILES.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
