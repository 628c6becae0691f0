//! The outward ports when nothing is configured.

use chargehand::adapters::outward::{NoMemory, NoNotices, NoRooms};
use chargehand_actors::event::Phase;
use chargehand_actors::ports::{Memory, Notices, OutwardError, Rooms};

use crate::journal::support::{task_id, view};

#[tokio::test]
async fn nothing_is_enabled_and_a_call_is_refused_for_good() {
    let refused = Err(OutwardError::Permanent("nothing configured".to_owned()));
    let row = view(task_id(1), Phase::Completed, 1);
    let key = || "k".to_owned();
    assert!(!NoMemory.enabled() && !NoRooms.enabled() && !NoNotices.enabled());
    assert_eq!(NoMemory.write(row.clone()).await, refused);
    assert_eq!(NoRooms.post(row.id, key(), Vec::new()).await, refused);
    assert_eq!(NoNotices.notify(row, key()).await, refused);
    for name in [NoMemory.name(), NoRooms.name(), NoNotices.name()] {
        assert_eq!(name, "none");
    }
}
