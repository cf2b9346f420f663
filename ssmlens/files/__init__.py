"""Files and folders: how every room makes them (`new`, `place`, `lock`, `appended`) and reads what others wrote."""
