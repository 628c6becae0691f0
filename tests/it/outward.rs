//! The outward ports when nothing is configured.

use chargehand::adapters::outward::{NoMemory, NoNotices, NoRooms};
use chargehand_actors::event::Phase;
use chargehand_actors::ports::{
    Memory, MemoryPage, Notice, NoticeAbout, Notices, PlannerError, RoomError, Rooms,
};

use crate::journal::support::{task_id, view};

#[tokio::test]
async fn nothing_is_enabled_and_a_call_is_refused_for_good() {
    let row = view(task_id(1), Phase::Completed, 1);
    assert!(!NoMemory.enabled() && !NoRooms.enabled() && !NoNotices.enabled());
    let page = MemoryPage {
        view: row.clone(),
        events: Vec::new(),
    };
    let gone = PlannerError::Gone("nothing configured".to_owned());
    assert_eq!(NoMemory.write(page, None, true).await, Err(gone.clone()));
    let notice = Notice {
        view: row.clone(),
        about: NoticeAbout::End,
        event: row.last_event,
    };
    assert_eq!(NoNotices.notify(notice, false).await, Err(gone));
    let refused = Err(RoomError::Permanent(
        "no homeserver is configured".to_owned(),
    ));
    assert_eq!(NoRooms.leave("!room:here".to_owned()).await, refused);
    for name in [NoMemory.name(), NoRooms.name(), NoNotices.name()] {
        assert_eq!(name, "none");
    }
}
