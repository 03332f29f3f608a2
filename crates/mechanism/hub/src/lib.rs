//! Model targets to local directories: the Hugging Face cache, downloads, the demo model
