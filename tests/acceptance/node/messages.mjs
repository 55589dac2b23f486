// Sends every type of message of whatsapp-api-js to the address in GRAPH_URL, and prints the results.
import { WhatsAppAPI } from "whatsapp-api-js";
import * as m from "whatsapp-api-js/messages";

const { GRAPH_URL, GRAPH_TOKEN, NUMBER_ID } = process.env;
const ponyfill = {
    fetch: (url, options) =>
        fetch(String(url).replace("https://graph.facebook.com", GRAPH_URL), options),
};
const client = new WhatsAppAPI({
    token: GRAPH_TOKEN, appSecret: "0".repeat(32), v: "v25.0", ponyfill,
});

const link = "https://files.example/a";
const body = new m.Body("Hello\nyou");
const interactive = (action, header) => new m.Interactive(action, body, header, new m.Footer("End"));
const messages = [
    new m.Text("Hello", true),
    new m.Image(link, false, "One\nTwo"),
    new m.Video("15550003333", true, "One"),
    new m.Audio(link, false, true),
    new m.Document(link, false, "One", "a.pdf"),
    new m.Sticker(link),
    new m.Reaction("wamid.1", "👍"),
    new m.Reaction("wamid.1"),
    new m.Location(-122.25, 37.5, "Here", "1 Example Road"),
    new m.Contacts([new m.Name("A Person", "A"), new m.Phone("+15550009999", "WORK")]),
    interactive(new m.ActionButtons(new m.Button("a", "A")), new m.Header(new m.Image(link))),
    interactive(
        new m.ActionList("Menu", new m.ListSection("One", new m.Row("a", "A", "first"))),
        new m.Header("Size"),
    ),
    interactive(new m.ActionCatalog(new m.Product("sku"))),
    interactive(new m.ActionProduct(new m.CatalogProduct("sku", "15550008888"))),
    interactive(
        new m.ActionProductList("15550008888", new m.ProductSection("A", new m.Product("sku"))),
        new m.Header("All"),
    ),
    interactive(new m.ActionCTA("Open", link)),
    interactive(new m.ActionNavigateFlow("token", "15550007777", "Start", "FIRST", { a: 1 })),
    interactive(new m.ActionDataExchangeFlow("token", "15550007777", "Start")),
    interactive(new m.ActionLocation()),
    new m.Template(
        "hello", "en_US",
        new m.HeaderComponent(new m.HeaderParameter(new m.Image(link))),
        new m.BodyComponent(
            new m.BodyParameter("A"), new m.BodyParameter(new m.Currency(1000, "USD", "$1")),
        ),
        new m.PayloadComponent("yes"), new m.URLComponent("path"), new m.CopyComponent("CODE"),
    ),
];

const send = async (recipient, message, ...options) =>
    (await client.sendMessage(NUMBER_ID, recipient, message, ...options)).messages?.length;
for (const message of messages) {
    console.log(message._type, await send({ phone: "15550001234" }, message));
}
console.log("user id", await send({ bsuid: "US.15550001234" }, new m.Text("Hello")));
console.log("reply", await send({ phone: "15550001234" }, new m.Text("Hello"), "wamid.1", "order-1"));
