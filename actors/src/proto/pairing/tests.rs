//! What holds of tickets and of requests to join.

use proptest::prelude::*;
use starling_schema::key::DeviceSecret;
use starling_schema::signed::NAME_BYTES_MAX;
use uuid::Uuid;

use super::*;

const SECRET: [u8; 16] = [7; 16];

fn key(n: u8) -> DeviceKey {
    DeviceSecret::from_bytes(&[n; 32]).public()
}

fn ticket() -> Ticket {
    Ticket {
        library: LibraryId(Uuid::from_u128(5)),
        library_name: Some("home".to_owned()),
        inviter: key(1),
        addresses: vec!["/ip4/192.168.1.2/udp/4001/quic-v1".to_owned()],
        secret: SECRET,
        expires_at_ms: 1_000,
    }
}

fn request(secret: &[u8; 16], joiner: u8) -> JoinRequest {
    JoinRequest { key: key(joiner), name: "new".to_owned(), proof: proof(secret, key(1), key(joiner)) }
}

fn issued() -> (Tickets, TicketId) {
    let mut tickets = Tickets::default();
    tickets.issue([1; 16], 5_000).unwrap();
    let id = tickets.issue(SECRET, 1_000).unwrap();
    tickets.issue([9; 16], 5_000).unwrap();
    (tickets, id)
}

#[test]
fn a_ticket_survives_its_text_capitals_and_line_breaks() {
    let text = ticket().to_string();
    assert!(text.starts_with("starling1"));
    assert_eq!(text.parse(), Ok(ticket()));
    let (head, tail) = text.split_at(40);
    assert_eq!(format!(" {}\n  {tail}\n", head.to_uppercase()).parse(), Ok(ticket()));
}

#[test]
fn the_largest_ticket_survives_its_text_and_what_does_not_fit_is_left_out() {
    let addresses = vec!["x".repeat(TICKET_ADDRESS_BYTES_MAX); TICKET_ADDRESSES_MAX];
    let largest = Ticket { addresses, library_name: Some("n".repeat(NAME_BYTES_MAX)), ..ticket() };
    assert_eq!(largest.to_string().parse(), Ok(largest.clone()));
    let mut larger = largest.clone();
    larger.addresses.insert(0, "x".repeat(TICKET_ADDRESS_BYTES_MAX + 1));
    larger.addresses.push("y".to_owned());
    assert_eq!(larger.to_string().parse(), Ok(largest));
}

#[test]
fn a_text_that_is_no_ticket_says_so() {
    for text in ["", "hello", "starling", "starlingx", "starling0abc", "/ip4/127.0.0.1"] {
        assert_eq!(text.parse::<Ticket>(), Err(TicketError::NotATicket), "{text}");
    }
}

#[test]
fn a_ticket_of_a_newer_version_asks_for_an_upgrade() {
    let newer = ticket().to_string().replacen("starling1", "starling2", 1);
    assert_eq!(newer.parse::<Ticket>(), Err(TicketError::Newer));
}

#[test]
fn a_ticket_cut_off_anywhere_is_refused() {
    let text = ticket().to_string();
    for end in "starling1".len()..text.len() {
        assert_eq!(text[..end].parse::<Ticket>(), Err(TicketError::Altered), "cut at {end}");
    }
}

#[test]
fn neither_tickets_nor_what_is_kept_of_them_show_the_secret_in_a_log() {
    let (tickets, _) = issued();
    let secret = format!("{SECRET:?}");
    assert!(!format!("{:?}{tickets:?}", ticket()).contains(secret.trim_matches(['[', ']'])));
}

#[test]
fn a_ticket_admits_one_key_and_answers_it_again_until_it_expires() {
    let (mut tickets, id) = issued();
    assert_eq!(tickets.judge(&request(&SECRET, 2), key(1), 999, false), Verdict::Admit { ticket: id });
    tickets.burn(id, key(2));
    tickets.burn(id, key(3));
    assert_eq!(tickets.judge(&request(&SECRET, 2), key(1), 999, false), Verdict::AgainSameAnswer { ticket: id });
    assert_eq!(tickets.judge(&request(&SECRET, 3), key(1), 999, false), Verdict::Refuse(JoinRefusal::Used));
    assert_eq!(tickets.judge(&request(&SECRET, 2), key(1), 1_000, false), Verdict::Refuse(JoinRefusal::Expired));
}

#[test]
fn an_expired_ticket_admits_nobody() {
    let (tickets, _) = issued();
    assert_eq!(tickets.judge(&request(&SECRET, 2), key(1), 1_000, false), Verdict::Refuse(JoinRefusal::Expired));
}

#[test]
fn a_proof_of_another_secret_key_or_inviter_is_unknown() {
    let (tickets, _) = issued();
    let unknown = Verdict::Refuse(JoinRefusal::Unknown);
    assert_eq!(tickets.judge(&request(&[8; 16], 2), key(1), 0, false), unknown);
    assert_eq!(tickets.judge(&JoinRequest { key: key(3), ..request(&SECRET, 2) }, key(1), 0, false), unknown);
    assert_eq!(tickets.judge(&request(&SECRET, 2), key(4), 0, false), unknown);
    assert_eq!(tickets.judge(&request(&[8; 16], 2), key(1), 0, true), unknown);
}

#[test]
fn a_removed_key_is_told_so_if_it_holds_a_ticket() {
    let (tickets, _) = issued();
    assert_eq!(tickets.judge(&request(&SECRET, 2), key(1), 0, true), Verdict::Refuse(JoinRefusal::Removed));
}

#[test]
fn the_door_is_open_until_every_ticket_has_expired_so_that_a_used_one_can_say_so() {
    let mut tickets = Tickets::default();
    assert!(!tickets.is_open(0));
    let id = tickets.issue(SECRET, 1_000).unwrap();
    assert!(tickets.is_open(999));
    assert!(!tickets.is_open(1_000));
    tickets.burn(id, key(2));
    assert!(tickets.is_open(999));
    assert!(!tickets.is_open(1_000));
}

#[test]
fn tickets_are_bounded_and_expired_ones_make_room() {
    let mut tickets = Tickets::default();
    for n in 0..u8::try_from(TICKETS_MAX).unwrap() {
        tickets.issue([n; 16], u64::from(n)).unwrap();
    }
    assert_eq!(tickets.issue([255; 16], 0), Err(TicketsError::Full));
    assert_eq!(tickets.forget_expired(1), [TicketId::of(&[0; 16])]);
    assert_eq!(tickets.issue([255; 16], 0), Ok(TicketId::of(&[255; 16])));
}

#[test]
fn a_burnt_ticket_stays_burnt_across_a_restart() {
    let (mut tickets, id) = issued();
    tickets.burn(id, key(2));
    let restored = Tickets::restore(tickets.iter().map(|(_, ticket)| ticket.clone()));
    assert_eq!(restored.judge(&request(&SECRET, 3), key(1), 0, false), Verdict::Refuse(JoinRefusal::Used));
}

proptest! {
    #[test]
    fn a_ticket_with_one_character_changed_is_refused(at in 9_usize..150, to in "[a-z2-7]") {
        let mut text = ticket().to_string();
        prop_assume!(text[at..=at] != to);
        text.replace_range(at..=at, &to);
        prop_assert_eq!(text.parse::<Ticket>(), Err(TicketError::Altered));
    }

    #[test]
    fn no_text_is_too_strange_to_read(text in "(starling[0-9])?.{0,200}") {
        prop_assert!(text.parse::<Ticket>().is_err());
    }
}
