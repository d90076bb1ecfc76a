//! The documented rules: which right an operation needs, and what each dialect says to the others.

use super::aims::Whose;
use super::world::Caller;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Jigx,
    Applivery,
    Blynk,
    Zitadel,
    Native,
}

/// What a caller must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// No token at all.
    Nothing,
    /// Any token that is good.
    Token,
    /// A right that of the built-in roles only Admin has.
    Admin,
    /// A right that Staff has, too.
    Staff,
    /// A token of a user.
    UserScope,
    /// A token of an organization.
    OrganizationScope,
}

/// Where an operation names what it acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Nowhere: the caller's own organization.
    Caller,
    /// What belongs to the whole server, and is managed by its first organization.
    Server,
    /// The organization, in the path or a header.
    Organization,
    /// The organization in the path, and an object of it.
    Object(Thing),
    /// A user in the query, the body or the path, whose organization must be within reach.
    User,
    /// An organization in the query or the body.
    OrganizationField(&'static str),
}

/// What a path's last id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    JigxNotification,
    Inbox,
    InboxEntry,
    SolutionMember,
    Subscription,
    Client,
    Key,
    Timeline,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: &'static str,
    pub(super) dialect: Dialect,
    pub(super) needs: Needs,
    pub(super) at: At,
    /// Answers besides 2xx that the state of the records allows.
    pub(super) also: &'static [u16],
}

const fn rule(id: &'static str, dialect: Dialect, needs: Needs, at: At) -> Rule {
    Rule { id, dialect, needs, at, also: &[] }
}

const fn also(rule: Rule, also: &'static [u16]) -> Rule {
    Rule { also, ..rule }
}

use At::{Caller as Own, Object, Organization, OrganizationField, Server, User};
use Dialect::{Applivery, Blynk, Jigx, Native, Zitadel};
use Needs::{Admin, Nothing, OrganizationScope, Staff, Token, UserScope};

pub(super) const ALL: &[Rule] = &[
    rule("jigxVersion", Jigx, Nothing, Own),
    rule("jigxCreateNotification", Jigx, Admin, Organization),
    rule("jigxListNotifications", Jigx, Admin, Organization),
    rule("jigxGetNotification", Jigx, Admin, Object(Thing::JigxNotification)),
    rule("jigxDeleteNotification", Jigx, Admin, Object(Thing::JigxNotification)),
    rule("jigxListInbox", Jigx, Admin, Object(Thing::Inbox)),
    rule("jigxGetInboxNotification", Jigx, Admin, Object(Thing::InboxEntry)),
    also(rule("jigxUpdateInboxNotification", Jigx, Admin, Object(Thing::InboxEntry)), &[400]),
    rule("jigxDeleteInboxNotification", Jigx, Admin, Object(Thing::InboxEntry)),
    rule("jigxListSolutionMembers", Jigx, Staff, Organization),
    rule("jigxPutSolutionMember", Jigx, Admin, Object(Thing::SolutionMember)),
    rule("jigxPatchSolutionMember", Jigx, Admin, Object(Thing::SolutionMember)),
    rule("jigxCreateMember", Jigx, Staff, Organization),
    rule("appliveryListNotifications", Applivery, Admin, Organization),
    rule("appliveryCreateNotification", Applivery, Admin, Organization),
    rule("appliveryGetNotification", Applivery, Admin, Object(Thing::Subscription)),
    rule("appliveryUpdateNotification", Applivery, Admin, Object(Thing::Subscription)),
    rule("appliveryDeleteNotification", Applivery, Admin, Object(Thing::Subscription)),
    rule("appliveryTestNotification", Applivery, Admin, Object(Thing::Subscription)),
    rule("blynkGetProfile", Blynk, UserScope, Own),
    rule("blynkListUsers", Blynk, Staff, Own),
    rule("blynkSearchUsers", Blynk, Staff, Own),
    rule("blynkGetUser", Blynk, Staff, User),
    rule("blynkCreateUser", Blynk, Staff, Own),
    rule("blynkCreateUserInOrganization", Blynk, Staff, OrganizationField("orgId")),
    rule("blynkUpdateUserRole", Blynk, Admin, User),
    rule("blynkInviteUser", Blynk, Staff, OrganizationField("orgId")),
    rule("blynkRegisterUser", Blynk, OrganizationScope, Own),
    rule("blynkTransferUser", Blynk, Admin, User),
    rule("blynkSendPush", Blynk, OrganizationScope, User),
    rule("blynkRegisterDevice", Blynk, OrganizationScope, User),
    rule("blynkGetOrganizationProfile", Blynk, Token, Own),
    rule("blynkGetOrganization", Blynk, Staff, OrganizationField("orgId")),
    rule("blynkSearchOrganizations", Blynk, Staff, Own),
    rule("blynkListSubOrganizations", Blynk, Staff, OrganizationField("orgId")),
    rule("blynkCreateOrganization", Blynk, Admin, OrganizationField("parentId")),
    rule("blynkCreateClient", Blynk, Admin, OrganizationField("orgId")),
    rule("oauthToken", Native, Nothing, Own),
    rule("zitadelGetNotificationPolicy", Zitadel, Admin, Organization),
    also(rule("zitadelAddNotificationPolicy", Zitadel, Admin, Organization), &[409]),
    also(rule("zitadelUpdateNotificationPolicy", Zitadel, Admin, Organization), &[400, 404]),
    also(rule("zitadelResetNotificationPolicy", Zitadel, Admin, Organization), &[404]),
    rule("zitadelGetDefaultNotificationPolicy", Zitadel, Admin, Organization),
    rule("zitadelGetPasswordChangeText", Zitadel, Admin, Organization),
    also(rule("zitadelSetPasswordChangeText", Zitadel, Admin, Organization), &[400]),
    also(rule("zitadelResetPasswordChangeText", Zitadel, Admin, Organization), &[404]),
    rule("zitadelGetDefaultPasswordChangeText", Zitadel, Admin, Organization),
    rule("zitadelSetHumanPassword", Zitadel, Admin, User),
    rule("zitadelHealthz", Zitadel, Nothing, Own),
    rule("zitadelAdminHealthz", Zitadel, Nothing, Own),
    rule("zitadelGetMyOrg", Zitadel, Staff, Organization),
    rule("zitadelAdminGetNotificationPolicy", Zitadel, Admin, Server),
    also(rule("zitadelAdminAddNotificationPolicy", Zitadel, Admin, Server), &[409]),
    also(rule("zitadelAdminUpdateNotificationPolicy", Zitadel, Admin, Server), &[400, 404]),
    rule("sendNotification", Native, Admin, OrganizationField("organization")),
    rule("sendNotifications", Native, Admin, Own),
    rule("getNotification", Native, Token, Object(Thing::Timeline)),
    rule("traceNotification", Native, Token, Object(Thing::Timeline)),
    rule("resendNotification", Native, Admin, Object(Thing::Timeline)),
    rule("cancelNotification", Native, Admin, Object(Thing::Timeline)),
    rule("listOutcomes", Native, Admin, Own),
    rule("listDeadLetters", Native, Admin, Own),
    also(rule("getDeadLetter", Native, Admin, Own), &[404]),
    rule("replayDeadLetters", Native, Admin, Own),
    rule("discardDeadLetters", Native, Admin, Own),
    rule("raiseEvent", Native, Admin, Organization),
    rule("listClients", Native, Admin, Organization),
    rule("createClient", Native, Admin, Organization),
    rule("getClient", Native, Admin, Object(Thing::Client)),
    rule("removeClient", Native, Admin, Object(Thing::Client)),
    rule("listKeys", Native, Admin, Organization),
    rule("createKey", Native, Admin, Organization),
    rule("getKey", Native, Admin, Object(Thing::Key)),
    rule("removeKey", Native, Admin, Object(Thing::Key)),
    rule("listRules", Native, Admin, Organization),
    also(rule("deployRule", Native, Admin, Organization), &[400]),
    also(rule("getRule", Native, Admin, Organization), &[404]),
    also(rule("changeRule", Native, Admin, Organization), &[404]),
    also(rule("getRuleComponent", Native, Admin, Organization), &[404]),
    also(rule("getRuleConfig", Native, Admin, Organization), &[404]),
    also(rule("changeRuleConfig", Native, Admin, Organization), &[404]),
    also(rule("listRuleDecisions", Native, Admin, Organization), &[404]),
    also(rule("listRuleLogs", Native, Admin, Organization), &[404]),
    also(rule("captureRule", Native, Admin, Organization), &[404]),
    also(rule("listRuleCapture", Native, Admin, Organization), &[404]),
    also(rule("endRuleCapture", Native, Admin, Organization), &[404]),
    rule("listAudit", Native, Admin, Organization),
    rule("verifyAudit", Native, Admin, Organization),
    rule("acceptInvitation", Native, Nothing, Own),
    rule("setPassword", Native, Admin, User),
    rule("getDocument", Native, Nothing, Own),
    rule("getDialectDocument", Native, Nothing, Own),
];

pub(super) fn of(id: &str) -> Option<&'static Rule> {
    ALL.iter().find(|rule| rule.id == id)
}

/// Whether `caller` may do this in organization 101.
pub(super) fn may(rule: &Rule, caller: Caller) -> bool {
    match rule.needs {
        // What needs no token is judged by the tests of its dialect.
        Nothing => false,
        Token => {
            matches!(caller, Caller::Organization | Caller::Admin | Caller::Staff | Caller::User)
        }
        Admin => matches!(caller, Caller::Organization | Caller::Admin),
        Staff => matches!(caller, Caller::Organization | Caller::Admin | Caller::Staff),
        UserScope => matches!(caller, Caller::Admin | Caller::Staff | Caller::User),
        OrganizationScope => caller == Caller::Organization,
    }
}

/// The status of `caller`, if it is to be refused.
pub(super) fn refusal(rule: &Rule, caller: Caller, whose: Whose) -> Option<u16> {
    if rule.needs == Nothing || !whose.is_at(rule.at) {
        return None;
    }
    if matches!(caller, Caller::Nobody | Caller::Garbage | Caller::Suspended) {
        return Some(401);
    }
    // Another organization's Admin and token have every right at home.
    let is_foreign = matches!(caller, Caller::Rival | Caller::Branch);
    let has_right = is_foreign && rule.needs != UserScope || may(rule, caller);
    let whose = match whose {
        Whose::Own if is_foreign && rule.at == Own => return None,
        Whose::Own if is_foreign && rule.at == Server => return Some(403),
        Whose::Own if is_foreign => Whose::ForeignOrganization,
        // To the rival all of it is its own.
        _ if is_foreign => return None,
        other => other,
    };
    let is_in_path = matches!(rule.at, Organization | Object(_));
    match whose {
        Whose::Own if has_right => None,
        Whose::Own => Some(403),
        Whose::ForeignOrganization | Whose::AbsentOrganization if is_in_path => {
            Some(match (rule.dialect, whose) {
                (Jigx, Whose::ForeignOrganization) | (Zitadel, _) => 403,
                _ => 404,
            })
        }
        // Everybody may set its own password, so whose it is comes first.
        Whose::ForeignObject | Whose::AbsentObject if rule.id == "setPassword" => Some(404),
        _ if !has_right => Some(403),
        // The product's page has two answers to a transfer.
        Whose::ForeignOrganization | Whose::ForeignObject if rule.id == "blynkTransferUser" => {
            Some(403)
        }
        _ => Some(404),
    }
}

/// Whether a foreign thing must look like an absent one.
pub(super) fn hides(rule: &Rule, foreign: Whose) -> bool {
    let is_told = rule.dialect == Jigx && foreign == Whose::ForeignOrganization;
    !is_told && rule.id != "blynkTransferUser"
}
