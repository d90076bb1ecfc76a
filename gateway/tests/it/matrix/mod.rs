//! Every operation of the served document × every kind of caller × own, foreign and absent ids.
//!
//! Requests come from the document's own examples, expectations from `rules`: who may do what, and
//! how each dialect says that something is not there or not yours.

mod aims;
mod hostile;
mod rules;
mod world;

use crate::support::client::{Ask, Protocol, Reply};
use aims::{Aim, Whose};
use rules::{Needs, Rule};
use serde_json::Value;
use std::collections::BTreeSet;
use world::{Caller, World};

#[tokio::test]
async fn every_operation_answers_every_caller_as_documented() {
    let world = World::start().await;
    let document = world.gateway.ask(&Ask::get("/openapi.json")).await.json();
    let operations = aims::operations(&document);
    let mut problems = unruled(&operations);
    let mut count = 0;
    for operation in &operations {
        let Some(rule) = rules::of(operation.id) else { continue };
        count += refused(&world, operation, rule, &mut problems).await;
        for caller in Caller::ALL.into_iter().filter(|caller| rules::may(rule, *caller)) {
            let aim = aims::aim(&world, operation, rule, (Whose::Own, true)).await;
            let reply = send(&world, &aim, caller).await;
            count += 1;
            if !(200..300).contains(&reply.status) && !rule.also.contains(&reply.status) {
                let text = format!("{} as {caller:?} at its own", operation.id);
                problems.push(format!("{text}: {}\n    {}", reply.status, reply.text()));
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(count > 1_500, "only {count} requests");
}

/// Every refusal of an operation, and that nothing is left of them; answers how many there were.
async fn refused(
    world: &World,
    operation: &aims::Operation<'_>,
    rule: &Rule,
    problems: &mut Vec<String>,
) -> usize {
    let mut aimed = Vec::new();
    for whose in Whose::ALL.into_iter().filter(|whose| whose.is_at(rule.at)) {
        let callers = Caller::ALL.into_iter();
        let expected: Vec<_> = callers
            .filter_map(|caller| Some((caller, rules::refusal(rule, caller, whose)?)))
            .collect();
        if !expected.is_empty() {
            let aim = aims::aim(world, operation, rule, (whose, false)).await;
            aimed.push((whose, aim, expected));
        }
    }
    let before = world.left_behind().await;
    let mut answers = Vec::new();
    for (whose, aim, callers) in &aimed {
        for (caller, expected) in callers {
            let reply = send(world, aim, *caller).await;
            if reply.status != *expected {
                problems.push(format!(
                    "{} as {caller:?} at {whose:?}: {} instead of {expected}\n    {} {}\n    {}",
                    operation.id,
                    reply.status,
                    aim.ask.method,
                    aim.ask.path,
                    reply.text()
                ));
            }
            answers.push((*caller, *whose, aim.anonymous(&reply)));
        }
    }
    if world.left_behind().await != before {
        problems.push(format!("{}: a refused call changed something", operation.id));
    }
    problems.extend(told_apart(rule, &answers));
    answers.len()
}

/// Operations without a rule, and rules without an operation.
fn unruled(operations: &[aims::Operation<'_>]) -> Vec<String> {
    let known: BTreeSet<_> = operations.iter().map(|operation| operation.id).collect();
    let ruled: BTreeSet<_> = rules::ALL.iter().map(|rule| rule.id).collect();
    let missing = known.difference(&ruled).map(|id| format!("{id}: an operation without a rule"));
    let stale = ruled.difference(&known).map(|id| format!("{id}: a rule of no operation"));
    missing.chain(stale).collect()
}

async fn send(world: &World, aim: &Aim, caller: Caller) -> Reply {
    let ask = match world.token(caller) {
        None => aim.ask.clone(),
        Some(token) => aim.ask.clone().bearer(token),
    };
    ask.send(Protocol::Http1, world.gateway.api).await
}

/// Answers that tell a foreign thing from an absent one, where the contract hides the difference.
fn told_apart(rule: &Rule, answers: &[(Caller, Whose, Value)]) -> Vec<String> {
    let mut found = Vec::new();
    for (foreign, absent) in [
        (Whose::ForeignOrganization, Whose::AbsentOrganization),
        (Whose::ForeignObject, Whose::AbsentObject),
    ] {
        if !rules::hides(rule, foreign) || rule.needs == Needs::Nothing {
            continue;
        }
        for (caller, _, answer) in answers.iter().filter(|(_, whose, _)| *whose == foreign) {
            let other = answers.iter().find(|(c, whose, _)| c == caller && *whose == absent);
            if let Some((_, _, other)) = other
                && other != answer
            {
                found.push(format!(
                    "{} as {caller:?}: {foreign:?} is told from {absent:?}\n    {answer}\n    {other}",
                    rule.id
                ));
            }
        }
    }
    found
}
