//! Moving the traffic between two colors. So far: the front door of the local platform.

pub mod front;
