document.documentElement.lang = "en";
if (matchMedia("(max-width: 768px)").matches) document.querySelector(".sidebar.open .toggle-button")?.click();
