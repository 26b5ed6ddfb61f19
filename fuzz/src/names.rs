//! What sandboxes ask of names, and what resolvers answer: whatever is understood can be written, in
//! a bounded message, and is understood again.

use coppice::network::dns::{MOST_BYTES, Outcome, Question};

use crate::parts;

pub(crate) fn target(bytes: &[u8]) {
    let Some((asked, answered)) = parts::<(&[u8], &[u8])>(bytes) else { return };
    let Some(question) = Question::read(asked) else { return };
    assert_eq!(Question::read(&question.write()).as_ref(), Some(&question));
    if let Ok(found) = question.understand(answered) {
        let told = question.answer(Outcome::Found, &found);
        assert!(told.len() <= MOST_BYTES);
    }
}
