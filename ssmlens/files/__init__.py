"""Files and folders: create them safely (`new`, `place`, `lock`, `appended`), and read files that others wrote."""
