//! What holds of membership, whatever is said and in whatever order it arrives.

use proptest::prelude::*;

use super::*;

fn secret(n: u8) -> DeviceSecret {
    DeviceSecret::from_bytes(&[n; 32])
}

/// A library founded by device 1 with devices 2..=n admitted by it.
fn library(n: u8) -> Membership {
    let (_, mut membership) = Membership::found("home", "one", [0; 16], 0, &secret(1)).unwrap();
    for joiner in 2..=n {
        let admit = membership.admit(secret(joiner).public(), "joiner", 0, &secret(1)).unwrap();
        assert!(membership.insert(admit).unwrap());
    }
    membership
}

fn admit(membership: &Membership, author: u8, key: u8) -> Signed {
    membership.admit(secret(key).public(), "joiner", 0, &secret(author)).unwrap()
}

fn remove(membership: &Membership, author: u8, key: u8) -> Signed {
    membership.remove(secret(key).public(), 0, &secret(author)).unwrap()
}

/// What a device says that does not care whether it may.
fn say(membership: &Membership, author: u8, body: StatementBody) -> Signed {
    let (library, author_key) = (membership.library(), secret(author).public());
    let statement = Statement { library, author: author_key, at_ms: 0, seen: membership.heads(), body };
    Signed::new(&statement, &secret(author)).unwrap()
}

#[test]
fn one_author_cannot_fill_the_set() {
    let membership = library(2);
    let name = |n: usize| say(&membership, 2, StatementBody::Rename { name: n.to_string() });
    let mut full = membership.clone();
    let (new, refused) = full.insert_all((0..AUTHOR_STATEMENTS_MAX + 3).map(name));
    assert_eq!((new.len(), refused.len()), (AUTHOR_STATEMENTS_MAX, 3));
    assert!(matches!(refused[0].1, MembershipError::TooMany(author) if author == secret(2).device()));
    assert!(matches!(full.rename("more", 0, &secret(2)), Err(MembershipError::TooMany(_))));
    assert!(full.insert(admit(&full, 1, 3)).unwrap());
}

#[test]
fn a_statement_that_names_too_many_others_is_refused_and_few_large_ones_fill_the_set() {
    let membership = library(1);
    let body = StatementBody::Rename { name: "one".to_owned() };
    let (library, author) = (membership.library(), secret(1).public());
    let named = |count: usize, at_ms: usize| {
        let id = |n: usize| starling_schema::signed::StatementId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let (seen, at_ms) = ((0..count).map(id).collect(), at_ms as u64);
        Signed::new(&Statement { library, author, at_ms, seen, body: body.clone() }, &secret(1)).unwrap()
    };
    let mut full = membership.clone();
    assert!(matches!(full.insert(named(SEEN_MAX + 1, 0)), Err(MembershipError::TooManySeen(_))));
    let (new, refused) = full.insert_all((0..200).map(|at| named(SEEN_MAX, at)));
    assert!(refused.iter().all(|(_, error)| matches!(error, MembershipError::Full)));
    assert_eq!(new.len(), STATEMENTS_BYTES_MAX / named(SEEN_MAX, 199).bytes.len());
}

fn with(membership: &Membership, statements: &[Signed]) -> Membership {
    let mut membership = membership.clone();
    for signed in statements {
        membership.insert(signed.clone()).unwrap();
    }
    membership
}

/// Which of devices 1..=9 are members.
fn members(membership: &Membership) -> Vec<u8> {
    let found: Vec<u8> = (1..=9).filter(|n| membership.is_member(secret(*n).device())).collect();
    assert_eq!(found.len(), membership.members().len());
    found
}

#[test]
fn the_founder_is_the_first_member() {
    let (library, membership) = Membership::found("home", "laptop", [7; 16], 5, &secret(1)).unwrap();
    assert_eq!(membership.library(), library);
    assert_eq!(membership.library_name(), "home");
    let member = Member { key: secret(1).public(), name: "laptop".to_owned() };
    assert_eq!(membership.members(), &BTreeMap::from([(secret(1).device(), member)]));
    assert_eq!(membership.key_of(secret(1).device()), Some(secret(1).public()));
}

#[test]
fn an_admission_counts_by_way_of_those_that_admitted_its_author() {
    let three = library(2);
    let three = with(&three, &[admit(&three, 2, 3)]);
    assert_eq!(members(&three), [1, 2, 3]);
}

#[test]
fn a_stranger_admits_nobody_not_even_itself() {
    let one = library(1);
    let body = |key: u8| StatementBody::Admit { key: secret(key).public(), name: String::new() };
    assert_eq!(members(&with(&one, &[say(&one, 8, body(8)), say(&one, 8, body(9)), say(&one, 9, body(8))])), [1]);
    let refused = one.admit(secret(9).public(), "", 0, &secret(8));
    assert!(matches!(refused, Err(MembershipError::NotAMember(device)) if device == secret(8).device()));
}

#[test]
fn a_stranger_removes_nobody() {
    let two = library(2);
    let said = say(&two, 9, StatementBody::Remove { key: secret(1).public(), counts: Vec::new() });
    assert_eq!(members(&with(&two, &[said])), [1, 2]);
}

#[test]
fn what_counted_of_a_removed_device_goes_on_counting() {
    let three = library(2);
    let three = with(&three, &[admit(&three, 2, 3)]);
    assert_eq!(members(&with(&three, &[remove(&three, 1, 2)])), [1, 3]);
    assert_eq!(members(&with(&three, &[remove(&three, 3, 1)])), [2, 3]);
}

#[test]
fn late_admits_of_a_removed_device_are_void_in_every_order() {
    let two = library(2);
    let (removal, late) = (remove(&two, 1, 2), admit(&two, 2, 3));
    assert_eq!(members(&with(&two, &[removal.clone(), late.clone()])), [1]);
    assert_eq!(members(&with(&two, &[late, removal])), [1]);
}

#[test]
fn what_a_late_invitee_says_is_void_as_well() {
    let three = library(3);
    let removal = remove(&three, 1, 2);
    let late = with(&three, &[admit(&three, 2, 4)]);
    let puppet = remove(&late, 4, 3);
    assert_eq!(members(&with(&late, std::slice::from_ref(&puppet))), [1, 2, 4]);
    assert_eq!(members(&with(&late, &[puppet, removal])), [1, 3]);
}

#[test]
fn a_removal_wins_over_a_concurrent_admission_of_the_same_key() {
    let two = library(2);
    let invited = with(&two, &[admit(&two, 1, 3)]);
    let statements = [remove(&invited, 1, 3), admit(&two, 2, 3)];
    assert_eq!(members(&with(&invited, &statements)), [1, 2]);
}

#[test]
fn a_removed_key_never_comes_back() {
    let two = library(2);
    let alone = with(&two, &[remove(&two, 1, 2)]);
    assert_eq!(alone.removed(), &BTreeSet::from([secret(2).public()]));
    let refused = alone.admit(secret(2).public(), "", 0, &secret(1));
    assert!(matches!(refused, Err(MembershipError::Removed(device)) if device == secret(2).device()));
    let again = say(&alone, 1, StatementBody::Admit { key: secret(2).public(), name: String::new() });
    assert_eq!(members(&with(&alone, &[again])), [1]);
    assert_eq!(members(&with(&alone, &[admit(&alone, 1, 3)])), [1, 3]);
}

#[test]
fn two_devices_that_remove_each_other_are_both_out() {
    let three = library(3);
    let statements = [remove(&three, 2, 3), remove(&three, 3, 2)];
    assert_eq!(members(&with(&three, &statements)), [1]);
    let founder_too = [remove(&three, 1, 3), remove(&three, 3, 1)];
    assert_eq!(members(&with(&three, &founder_too)), [2]);
}

#[test]
fn two_devices_that_remove_each_other_are_both_out_even_if_a_third_removes_one() {
    let three = library(3);
    let statements = [remove(&three, 2, 3), remove(&three, 3, 2), remove(&three, 1, 3)];
    assert_eq!(members(&with(&three, &statements)), [1]);
}

#[test]
fn three_devices_that_remove_each_other_in_a_ring_are_all_out() {
    let four = library(4);
    let statements = [remove(&four, 2, 3), remove(&four, 3, 4), remove(&four, 4, 2)];
    assert_eq!(members(&with(&four, &statements)), [1]);
}

#[test]
fn late_removals_of_a_removed_device_harm_only_those_that_removed_it() {
    let four = library(4);
    let statements = [remove(&four, 1, 2), remove(&four, 2, 3), remove(&four, 2, 4)];
    assert_eq!(members(&with(&four, &statements)), [1, 3, 4]);
    let and_back = with(&four, &[&statements[..], &[remove(&four, 2, 1)]].concat());
    assert_eq!(members(&and_back), [3, 4]);
}

#[test]
fn a_device_may_leave() {
    let two = library(2);
    let three = with(&two, &[admit(&two, 2, 3)]);
    assert_eq!(members(&with(&three, &[remove(&three, 2, 2)])), [1, 3]);
}

#[test]
fn the_newest_name_that_a_device_gave_itself_is_shown() {
    let two = library(2);
    let first = with(&two, &[two.rename("first", 900, &secret(2)).unwrap()]);
    let second = with(&first, &[first.rename("second", 100, &secret(2)).unwrap()]);
    assert_eq!(second.members()[&secret(2).device()].name, "second");
    let elsewhere = with(&second, &[two.rename("unseen", 950, &secret(2)).unwrap()]);
    assert_eq!(elsewhere.members()[&secret(2).device()].name, "second");
}

#[test]
fn a_forged_statement_is_refused() {
    let mut two = library(2);
    let mut forged = admit(&two, 1, 3);
    forged.signature[0] ^= 1;
    assert!(matches!(two.insert(forged), Err(MembershipError::Signed(SignedError::Forged(_)))));
    assert_eq!(members(&two), [1, 2]);
}

#[test]
fn a_statement_of_another_library_is_refused() {
    let mut here = library(1);
    let (other, there) = Membership::found("work", "one", [9; 16], 0, &secret(1)).unwrap();
    for signed in [there.statements().next().unwrap().clone(), admit(&there, 1, 2)] {
        let refused = here.insert(signed);
        assert!(matches!(refused, Err(MembershipError::OtherLibrary { library, .. }) if library == other));
    }
    let body = StatementBody::Found { name: String::new(), device_name: String::new(), nonce: [0; 16] };
    let second_founder = say(&here, 2, body);
    assert!(matches!(here.insert(second_founder), Err(MembershipError::OtherLibrary { .. })));
}

#[test]
fn a_name_too_long_to_show_is_refused() {
    let mut one = library(1);
    let name = "x".repeat(NAME_BYTES_MAX + 1);
    assert!(matches!(one.rename(&name, 0, &secret(1)), Err(MembershipError::NameTooLong { .. })));
    let said = say(&one, 1, StatementBody::Rename { name });
    assert!(matches!(one.insert(said), Err(MembershipError::NameTooLong { .. })));
}

#[test]
fn a_statement_is_new_once() {
    let mut one = library(1);
    let signed = admit(&one, 1, 2);
    assert!(one.insert(signed.clone()).unwrap());
    assert!(!one.insert(signed).unwrap());
    assert_eq!(one.heads().len(), 1);
}

/// What a device says: who, what of three, about whom, what it had seen and what it lets count.
type Saying = (u8, u8, u8, u64, u64);

fn sayings() -> impl Strategy<Value = Vec<Saying>> {
    prop::collection::vec((1..6_u8, 0..5_u8, 1..6_u8, any::<u64>(), any::<u64>()), 1..24)
}

/// Statements by anybody about anybody, right or wrong, that name some of those before them.
fn statements(sayings: &[Saying]) -> (LibraryId, Vec<Signed>) {
    let (library, founded) = Membership::found("home", "one", [0; 16], 0, &secret(1)).unwrap();
    let mut said: Vec<Signed> = founded.statements().cloned().collect();
    for (at_ms, (author, what, about, seen, counts)) in (1..).zip(sayings) {
        let picked = |mask: &u64| -> Vec<StatementId> {
            said.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, signed)| signed.id()).collect()
        };
        let key = secret(*about).public();
        let body = match what {
            0 | 1 => StatementBody::Admit { key, name: format!("by {author}") },
            2 | 3 => StatementBody::Remove { key, counts: picked(counts) },
            _ => StatementBody::Rename { name: format!("at {at_ms}") },
        };
        let author = secret(*author);
        let statement = Statement { library, author: author.public(), at_ms, seen: picked(seen), body };
        said.push(Signed::new(&statement, &author).unwrap());
    }
    (library, said)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn members_are_the_same_in_every_order(
        (sayings, order) in sayings().prop_flat_map(|sayings| {
            let order = Just((0..=sayings.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(sayings), order)
        }),
    ) {
        let (library, said) = statements(&sayings);
        let (mut forwards, mut shuffled, mut at_once) =
            (Membership::new(library), Membership::new(library), Membership::new(library));
        for signed in &said {
            forwards.insert(signed.clone()).unwrap();
        }
        for i in order {
            shuffled.insert(said[i].clone()).unwrap();
        }
        at_once.insert_all(said);
        for other in [&shuffled, &at_once] {
            prop_assert_eq!(forwards.members(), other.members());
            prop_assert_eq!(forwards.removed(), other.removed());
            prop_assert_eq!(forwards.digest(), other.digest());
            prop_assert_eq!(forwards.heads(), other.heads());
        }
    }

    #[test]
    fn no_member_is_removed_and_every_member_was_admitted(sayings in sayings()) {
        let (library, said) = statements(&sayings);
        let mut membership = Membership::new(library);
        membership.insert_all(said);
        for (device, member) in membership.members() {
            prop_assert_eq!(*device, member.key.device());
            prop_assert!(!membership.removed().contains(&member.key));
            prop_assert!(membership.standing.admitted.contains(&member.key));
        }
    }

    #[test]
    fn every_pair_that_removed_each_other_is_out(sayings in sayings()) {
        let (library, said) = statements(&sayings);
        let mut membership = Membership::new(library);
        membership.insert_all(said);
        for (id, statement) in &membership.statements {
            let StatementBody::Remove { key, .. } = statement.body else { continue };
            let answered = membership.statements.iter().any(|(other, answer)| {
                let StatementBody::Remove { key: back, .. } = answer.body else { return false };
                membership.counts(*other) && answer.author == key && back == statement.author
            });
            if answered && membership.standing.admitted.contains(&statement.author) {
                prop_assert!(membership.counts(*id));
                prop_assert!(membership.removed().contains(&key));
            }
        }
    }

    #[test]
    fn late_admits_change_no_member(sayings in sayings(), late in prop::collection::vec(6..9_u8, 1..5)) {
        let (library, said) = statements(&sayings);
        let mut before = Membership::new(library);
        before.insert_all(said);
        let Some(leaver) = (1..6).find(|n| before.is_member(secret(*n).device())) else { return Ok(()) };
        let before = with(&before, &[remove(&before, leaver, leaver)]);
        let admits: Vec<Signed> = late.iter().map(|key| {
            say(&before, leaver, StatementBody::Admit { key: secret(*key).public(), name: String::new() })
        }).collect();
        let after = with(&before, &admits);
        prop_assert_eq!(before.members(), after.members());
    }
}
