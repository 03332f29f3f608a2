//! Feeds the control core with events and carries out its actions
