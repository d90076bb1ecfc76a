//! The index against a plain filter and sort, with changes and folds in between.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::text::fold;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(SearchRow),
    Remove(UserId),
    Fold,
    /// Folds what a clone saw before the last step.
    FoldLate,
    Search(String, SortBy, bool, u64, usize, u64),
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[aAbB%_.*\\\\ -]{0,4}",
        1 => "[a-bA-B]{14,34}",
        1 => "[ΑΣασςßẞİIıiÄä]{0,4}",
        1 => Just(String::new()),
    ]
}

fn row() -> impl Strategy<Value = SearchRow> {
    let texts = (text(), text(), proptest::option::of(text()), proptest::option::of(text()));
    let numbers = (0u8..3, -1i32..3, 0u32..3, 0u64..3, proptest::option::of(0u64..4));
    let words = ("[aAbB]{0,2}", proptest::option::of("[a-cC]{0,2}"));
    (-20i64..20, texts, numbers, words).prop_map(|(user, texts, numbers, words)| SearchRow {
        user: UserId(user),
        name: texts.0,
        email: texts.1,
        nick_name: texts.2,
        phone: texts.3,
        status: [UserStatus::Active, UserStatus::Pending, UserStatus::Suspended]
            [usize::from(numbers.0)],
        inactive_from: numbers.4.map(|second| Millis(second * 1000)),
        role: numbers.1,
        devices: numbers.2,
        registered_at: Millis(numbers.3),
        org_name: words.0.into(),
        country: words.1.map(Arc::from),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let column = (0..SortBy::ALL.len()).prop_map(|at| SortBy::ALL[at]);
    prop_oneof![
        6 => row().prop_map(Step::Put),
        2 => (-20i64..20).prop_map(|user| Step::Remove(UserId(user))),
        1 => Just(Step::Fold),
        1 => Just(Step::FoldLate),
        6 => (text(), column, any::<bool>(), 0u64..12, 0usize..12, 0u64..4)
            .prop_map(|(text, column, descending, offset, limit, now)| {
                Step::Search(text, column, descending, offset, limit, now)
            }),
    ]
}

fn shown(row: &SearchRow, now: Millis) -> &'static str {
    match row.status {
        UserStatus::Active if row.inactive_from.is_some_and(|from| from <= now) => "Inactive",
        UserStatus::Active => "Active",
        UserStatus::Pending => "Pending",
        UserStatus::Suspended => "Suspended",
    }
}

fn compare(column: SortBy, a: &SearchRow, b: &SearchRow, now: Millis) -> std::cmp::Ordering {
    let text = |text: Option<&str>| fold(text.unwrap_or_default());
    match column {
        SortBy::Id => a.user.cmp(&b.user),
        SortBy::Name => fold(&a.name).cmp(&fold(&b.name)),
        SortBy::Email => fold(&a.email).cmp(&fold(&b.email)),
        SortBy::Status => shown(a, now).cmp(shown(b, now)),
        SortBy::Role => a.role.cmp(&b.role),
        SortBy::OrganizationName => fold(&a.org_name).cmp(&fold(&b.org_name)),
        SortBy::DevicesCount => a.devices.cmp(&b.devices),
        SortBy::Country => text(a.country.as_deref()).cmp(&text(b.country.as_deref())),
        SortBy::RegisteredAt => a.registered_at.cmp(&b.registered_at),
        SortBy::Phone => text(a.phone.as_deref()).cmp(&text(b.phone.as_deref())),
    }
}

fn naive(rows: &BTreeMap<UserId, SearchRow>, query: &Query<'_>) -> Page {
    let needle = fold(query.text);
    let contains = |text: &str| fold(text).contains(&needle);
    let mut found: Vec<_> = rows
        .values()
        .filter(|row| {
            let optional = [&row.nick_name, &row.phone];
            contains(&row.name)
                || contains(&row.email)
                || optional.into_iter().flatten().any(|text| contains(text))
        })
        .collect();
    found.sort_by(|a, b| {
        let ascending = compare(query.sort, a, b, query.now);
        let keys = if query.descending { ascending.reverse() } else { ascending };
        keys.then(a.user.cmp(&b.user))
    });
    let total = found.len() as u64;
    let users = found.into_iter().map(|row| row.user);
    let offset = usize::try_from(query.offset).unwrap();
    Page { users: users.skip(offset).take(query.limit).collect(), total }
}

proptest! {
    #[test]
    fn every_search_answers_what_a_plain_filter_and_sort_would(
        start in proptest::collection::vec(row(), 0..40),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut model: BTreeMap<_, _> = start.iter().map(|row| (row.user, row.clone())).collect();
        let mut index = SearchIndex::build(start);
        let mut before = None;
        for step in steps {
            let now = index.clone();
            match step {
                Step::Put(row) => {
                    index.put(&row);
                    model.insert(row.user, row);
                }
                Step::Remove(user) => {
                    index.remove(user);
                    model.remove(&user);
                }
                Step::Fold => index.adopt(index.folded()),
                Step::FoldLate => {
                    let early: Option<SearchIndex> = before.take();
                    let folded = early.as_ref().unwrap_or(&index).folded();
                    index.adopt(folded);
                }
                Step::Search(text, sort, descending, offset, limit, now) => {
                    let now = Millis(now * 1000);
                    let query = Query { text: &text, sort, descending, offset, limit, now };
                    prop_assert_eq!(index.search(&query), naive(&model, &query), "{:?}", query);
                }
            }
            // A clone from before a fold cannot be adopted after it.
            before = Arc::ptr_eq(&now.base, &index.base).then_some(now);
        }
    }
}

fn numbered(user: i64) -> SearchRow {
    SearchRow {
        user: UserId(user),
        org_name: Arc::from(format!("Org {}", user % 7)),
        name: format!("User Number {user}"),
        email: format!("user{user}@Example.com"),
        nick_name: (user % 3 == 0).then(|| format!("nick-{user}")),
        phone: (user % 5 == 0).then(|| format!("+49{user:08}")),
        status: if user % 4 == 0 { UserStatus::Pending } else { UserStatus::Active },
        inactive_from: (user % 4 == 1).then(|| Millis(u64::try_from(user % 5).unwrap() * 1000)),
        role: i32::try_from(user % 3).unwrap(),
        devices: u32::try_from(user % 6).unwrap(),
        country: (user % 2 == 0).then(|| Arc::from("Japan")),
        registered_at: Millis(u64::try_from(user * 7919 % 10_007).unwrap()),
    }
}

#[test]
fn users_in_many_chunks_are_all_found() {
    // So many that a search uses more than one thread.
    let mut rows: BTreeMap<_, _> = (0..70_000).map(|id| (UserId(id), numbered(id))).collect();
    let (low, high) = (rows.range(..UserId(40_000)), rows.range(UserId(40_000)..));
    let part = |rows: std::collections::btree_map::Range<'_, _, SearchRow>| {
        SearchIndex::build(rows.rev().map(|(_, row)| row.clone()))
    };
    let mut index = part(low).joined(&part(high));
    for id in (0..80_000).step_by(53) {
        if id % 2 == 0 {
            index.remove(UserId(id));
            rows.remove(&UserId(id));
        } else {
            let row = SearchRow { name: format!("Changed {id}"), ..numbered(id) };
            index.put(&row);
            rows.insert(row.user, row);
        }
    }
    let texts = ["e", "49", "number 499", "user69999@", "nick-3", "changed", "zz", "\u{fffd}", ""];
    for fold in [false, true] {
        if fold {
            index.adopt(index.folded());
        }
        for (text, sort) in
            texts.into_iter().zip(SortBy::ALL.into_iter().cycle().skip(usize::from(fold)))
        {
            for (descending, offset) in [(false, 0), (true, 0), (fold, 9_990)] {
                let now = Millis(2_500);
                let query = Query { text, sort, descending, offset, limit: 20, now };
                assert_eq!(index.search(&query), naive(&rows, &query), "{query:?}");
            }
        }
    }
}

#[test]
fn a_search_crosses_no_field_and_knows_no_wildcards() {
    let row = SearchRow {
        name: String::from("Ann"),
        email: String::from("ann_b%@example.com"),
        nick_name: Some(String::from("a\\b")),
        phone: None,
        ..numbered(1)
    };
    let index = SearchIndex::build([row]);
    let total = |text| {
        let sort = SortBy::Id;
        index
            .search(&Query { text, sort, descending: false, offset: 0, limit: 1, now: Millis(0) })
            .total
    };
    for found in ["ANN", "nn_b%", "A\\B", "@EXAMPLE", ""] {
        assert_eq!(total(found), 1, "{found}");
    }
    for missing in ["annann", "nna", "a%n", "a_n", "a.n", ".*", "a\\\\b", "com\0", "\0"] {
        assert_eq!(total(missing), 0, "{missing}");
    }
}

#[test]
fn needles_fold_alike_wherever_they_stand_in_a_word() {
    let index =
        SearchIndex::build([SearchRow { name: String::from("ΟΔΟΣ Straße"), ..numbered(1) }]);
    for text in ["οδος", "οδοσ", "ΔΟΣ", "STRAß", "ος s"] {
        let sort = SortBy::Id;
        let query = Query { text, sort, descending: false, offset: 0, limit: 1, now: Millis(0) };
        assert_eq!(index.search(&query).total, 1, "{text}");
    }
}
