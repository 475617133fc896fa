// Takes away the words that this page has not come as a whole (.unloaded): it has.

const styles = [...document.querySelectorAll("link[rel=stylesheet]")];
if (styles.every(({ sheet }) => sheet?.cssRules.length)) document.querySelector(".unloaded")?.remove();
