//! One copy of one model behind a socket: admission, streaming, drain
