//! stub
/// x
pub struct App;
