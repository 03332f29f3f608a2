//! Wire types of the HTTP surface and their validation
