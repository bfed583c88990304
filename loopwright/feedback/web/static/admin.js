// Managers' pages: copy what is shown once; look again while figures are being computed. All else works without.

for (const button of document.querySelectorAll("[data-copies]")) {
  const field = document.getElementById(button.dataset.copies);
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(field.value);
    button.textContent = "Copied";
  });
}

if (document.querySelector("[data-computing]")) {
  setTimeout(() => location.reload(), 3000);
}
