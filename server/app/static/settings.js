/** Browser storage that may be forbidden, as it is for a page in another site's frame. */

/** @param {() => Storage} storage */
function careful(storage) {
  return {
    /** @param {string} key @returns {string|null} */
    get(key) {
      try {
        return storage().getItem(key);
      } catch {
        return null;
      }
    },
    /** @param {string} key @param {string} value */
    set(key, value) {
      try {
        storage().setItem(key, value);
      } catch {
        // Nothing depends on it: the setting lasts until the page is closed.
      }
    },
  };
}

/** For this tab. */
export const tabStorage = careful(() => sessionStorage);

/** For this browser. */
export const settings = careful(() => localStorage);
