//! Message texts: an organization's own words after a password change, in each language.

use super::answer::Answer;
use super::context::Context;
use super::fault::{Code, Fault};
use super::policy;
use super::proto::{MessageCustomText, ObjectDetails};
use crate::api::Answered;
use crate::api::failure::FailureClass;
use crate::api::language::{Language, Slots};
use crate::api::shared::Turn;
use crate::model::{MessageText, Millis, OrganizationId, PolicyOwner};
use crate::store::{Change, Expectation};

/// The organization's words, or the default's in their place.
pub(super) async fn get(
    context: &Context<'_>,
    language: Option<Language>,
) -> Result<Answered, Fault> {
    let organization = context.organization();
    if let Some(language) = language
        && let Some(text) = stored(context, organization.id, language).await?
    {
        let details = ObjectDetails {
            sequence: text.sequence,
            creation_date: Some(text.created_at.into()),
            change_date: Some(text.changed_at.into()),
            resource_owner: organization.numeric.clone(),
        };
        return Ok(context.read(&Answer::Text(message(text.into(), details, false))));
    }
    get_default(context, language).await
}

pub(super) async fn get_default(
    context: &Context<'_>,
    language: Option<Language>,
) -> Result<Answered, Fault> {
    let details = policy::built_in(&*context.instance().await?);
    Ok(context.read(&Answer::Text(message(Slots::default_for(language), details, true))))
}

/// Sets the organization's words; without any word it is as if they were reset.
pub(super) async fn set(
    context: &Context<'_>,
    language: Language,
    slots: Slots,
) -> Result<Answered, Fault> {
    put(context, language, Some(slots).filter(|slots| !slots.are_empty()), false).await
}

pub(super) async fn reset(context: &Context<'_>, language: Language) -> Result<Answered, Fault> {
    put(context, language, None, true).await
}

async fn put(
    context: &Context<'_>,
    language: Language,
    slots: Option<Slots>,
    must_exist: bool,
) -> Result<Answered, Fault> {
    let (shared, organization) = (context.shared, context.organization());
    let owner = PolicyOwner::Organization(organization.id);
    let mut begun = match context.turn().await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    loop {
        let sequence = shared.store.sequence(owner).await?;
        let current = stored(context, organization.id, language).await?;
        if current.is_none() && must_exist {
            let (class, text) = (FailureClass::NotFound, "Message Text not found");
            return Err(Fault::named(class, Code::NotFound, "Org-3b8Jf", text));
        }
        let now = shared.intake.now();
        let created_at = current.as_ref().map_or(now, |text| text.created_at);
        let mut details = ObjectDetails {
            sequence: sequence + 1,
            creation_date: Some(created_at.into()),
            change_date: Some(now.into()),
            resource_owner: organization.numeric.clone(),
        };
        if current.clone().map(Slots::from) == slots {
            // Nothing changes, so there is no event to count.
            details.sequence = current.as_ref().map_or(sequence, |text| text.sequence);
            details.change_date = Some(current.map_or(now, |text| text.changed_at).into());
            return Ok(context.read(&Answer::Details(details)));
        }
        let text = slots.clone().map(|slots| text_of(slots, created_at, now));
        let action = if text.is_some() { "text.set" } else { "text.reset" };
        let changes = vec![
            Change::Expect(Expectation::Sequence(owner, sequence)),
            Change::PutText(owner, language.as_str().to_owned(), text),
        ];
        let object = format!("text:password_change:{}", language.as_str());
        let change = context.record(organization.id, changes, (action, object));
        let answer = context.stored(&Answer::Details(details));
        if let Some(answered) = shared.change(&mut begun, change, answer).await? {
            return Ok(answered);
        }
    }
}

async fn stored(
    context: &Context<'_>,
    org: OrganizationId,
    language: Language,
) -> Result<Option<MessageText>, Fault> {
    let owner = PolicyOwner::Organization(org);
    Ok(context.shared.store.text(owner, language.as_str()).await?)
}

fn text_of(slots: Slots, created_at: Millis, changed_at: Millis) -> MessageText {
    MessageText {
        title: slots.title,
        pre_header: slots.pre_header,
        subject: slots.subject,
        greeting: slots.greeting,
        text: slots.text,
        button_text: slots.button_text,
        footer_text: slots.footer_text,
        created_at,
        changed_at,
        sequence: 0,
    }
}

fn message(slots: Slots, details: ObjectDetails, is_default: bool) -> MessageCustomText {
    MessageCustomText {
        details: Some(details),
        title: slots.title,
        pre_header: slots.pre_header,
        subject: slots.subject,
        greeting: slots.greeting,
        text: slots.text,
        button_text: slots.button_text,
        footer_text: slots.footer_text,
        is_default,
    }
}
